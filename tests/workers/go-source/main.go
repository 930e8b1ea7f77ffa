// A Worker of the kind the platform publishes as a starting point: headers, rows, upserts and logs in Go.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	coresdk "worker/GoSdk"
)

func must(response *coresdk.Response, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if response.GetCode() != 0 {
		fmt.Fprintln(os.Stderr, response.GetMessage())
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	text, err := coresdk.Parameter.GetInputJSONString(ctx)
	must(nil, err)
	var input struct {
		URL   string `json:"url"`
		Count int    `json:"max_results"`
	}
	must(nil, json.Unmarshal([]byte(text), &input))
	must(coresdk.Log.Info(ctx, "input: "+text))
	must(coresdk.Result.SetTableHeader(ctx, []*coresdk.TableHeaderItem{
		{Label: "ID", Key: "id", Format: "text"},
		{Label: "Title", Key: "title", Format: "text"},
		{Label: "Address", Key: "url", Format: "text"},
	}))
	for n := 1; n <= input.Count; n++ {
		row := map[string]any{"id": fmt.Sprintf("%s#%d", input.URL, n), "title": "<b>&</b>", "url": input.URL}
		must(coresdk.Result.UpsertData(ctx, row, "id"))
	}
	for n := 3; n <= input.Count; n += 3 {
		row := map[string]any{"id": fmt.Sprintf("%s#%d", input.URL, n), "title": "second edition"}
		must(coresdk.Result.UpsertData(ctx, row, "id"))
	}
	must(coresdk.Result.PushData(ctx, map[string]any{"id": input.URL, "title": "the last row"}))
	if _, err := coresdk.Result.UpsertData(ctx, map[string]any{"a": 1}, "id"); err == nil {
		must(nil, fmt.Errorf("an upsert without its key was sent"))
	}
	must(coresdk.Log.Warn(ctx, "done"))
	fmt.Println("a line on stdout")
}
