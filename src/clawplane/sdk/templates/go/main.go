// worker-name: one row per item of the input's list "items", with its length.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"unicode/utf8"

	coresdk "worker/GoSdk"
)

type options struct {
	Items []string `json:"items"`
}

func run(ctx context.Context) error {
	text, err := coresdk.Parameter.GetInputJSONString(ctx)
	if err != nil {
		return err
	}
	var input options
	if err := json.Unmarshal([]byte(text), &input); err != nil {
		return fmt.Errorf("the input is not what this Worker expects: %w", err)
	}
	header := []*coresdk.TableHeaderItem{
		{Label: "Item", Key: "item", Format: "text"},
		{Label: "Length", Key: "length", Format: "integer"},
	}
	if _, err := coresdk.Result.SetTableHeader(ctx, header); err != nil {
		return err
	}
	for _, item := range input.Items {
		row := map[string]any{"item": item, "length": utf8.RuneCountInString(item)}
		if _, err := coresdk.Result.PushData(ctx, row); err != nil {
			return err
		}
	}
	_, err = coresdk.Log.Info(ctx, fmt.Sprintf("%d items done", len(input.Items)))
	return err
}

func main() {
	ctx := context.Background()
	if err := run(ctx); err != nil {
		_, _ = coresdk.Log.Error(ctx, err.Error())
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
