// Package coresdk is the CoreClaw Worker SDK for Go: input, result rows, table header and log of the run this program
// belongs to.
//
//	text, err := coresdk.Parameter.GetInputJSONString(ctx)
//	_, err = coresdk.Result.SetTableHeader(ctx, []*coresdk.TableHeaderItem{{Label: "Title", Key: "title", Format: "text"}})
//	_, err = coresdk.Result.PushData(ctx, map[string]any{"title": "A row"})
//	_, err = coresdk.Log.Info(ctx, "done")
//
// A call that the platform refuses returns a response whose Code is not 0; an error means that the call itself failed.
package coresdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	address    = "127.0.0.1:20086"
	maxMessage = 64 << 20
)

// Parameter gives the input of this run.
var Parameter *parameterAPI

// Result takes the rows of this run.
var Result *resultAPI

// Log takes the log of this run.
var Log *logAPI

type parameterAPI struct{ client ParameterClient }
type resultAPI struct{ client ResultClient }
type logAPI struct{ client LogClient }

func init() {
	// Dial connects in the background; WithInsecure exists in every version of grpc-go from 1.33 on
	connection, err := grpc.Dial(
		address,
		grpc.WithInsecure(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		panic(fmt.Sprintf("coresdk: cannot use %s: %v", address, err))
	}
	Parameter = &parameterAPI{NewParameterClient(connection)}
	Result = &resultAPI{NewResultClient(connection)}
	Log = &logAPI{NewLogClient(connection)}
}

// GetInputJSONString returns the input object as JSON text.
func (p *parameterAPI) GetInputJSONString(ctx context.Context) (string, error) {
	response, err := p.client.GetInputJSONString(ctx, &emptypb.Empty{})
	if err != nil {
		return "", err
	}
	return response.GetJsonString(), nil
}

// SetTableHeader names the columns; the last call wins, before or after rows.
func (r *resultAPI) SetTableHeader(ctx context.Context, headers []*TableHeaderItem) (*Response, error) {
	return r.client.SetTableHeader(ctx, &TableHeader{Headers: headers})
}

// PushData appends one row.
func (r *resultAPI) PushData(ctx context.Context, row map[string]any) (*Response, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(row); err != nil {
		return nil, err
	}
	return r.client.PushData(ctx, &Data{JsonString: string(bytes.TrimRight(text.Bytes(), "\n"))})
}

// UpsertData appends one row, or updates the one that was upserted with the same value under key.
func (r *resultAPI) UpsertData(ctx context.Context, row map[string]any, key string) (*Response, error) {
	if key == "" {
		return nil, errors.New("UpsertData needs the name of a unique key")
	}
	value, found := row[key]
	if !found {
		return nil, fmt.Errorf("UpsertData: the row has no key %q", key)
	}
	marked := make(map[string]any, len(row)+2)
	for name, content := range row {
		marked[name] = content
	}
	marked["__coreclaw_upsert_key__"] = key
	marked["__coreclaw_upsert_value__"] = fmt.Sprint(value)
	return r.PushData(ctx, marked)
}

// Debug appends a line of level debug.
func (l *logAPI) Debug(ctx context.Context, text string) (*Response, error) {
	return l.client.Debug(ctx, &LogBody{Log: text})
}

// Info appends a line of level info.
func (l *logAPI) Info(ctx context.Context, text string) (*Response, error) {
	return l.client.Info(ctx, &LogBody{Log: text})
}

// Warn appends a line of level warning.
func (l *logAPI) Warn(ctx context.Context, text string) (*Response, error) {
	return l.client.Warn(ctx, &LogBody{Log: text})
}

// Error appends a line of level error.
func (l *logAPI) Error(ctx context.Context, text string) (*Response, error) {
	return l.client.Error(ctx, &LogBody{Log: text})
}
