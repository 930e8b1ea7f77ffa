// Licence survey: under which licences is the software installed on this machine?
//
// Input: "packages", a list of patterns over package names; each one is a subtask. Rows: one per package, from the copyright
// file that every Debian package installs below /usr/share/doc.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	coresdk "worker/GoSdk"
)

const documents = "/usr/share/doc"

var (
	field     = regexp.MustCompile(`^License:\s*(\S.*)$`)
	reference = regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])`)
	columns   = []*coresdk.TableHeaderItem{
		{Label: "Package", Key: "package", Format: "text"},
		{Label: "Licences", Key: "licences", Format: "array"},
		{Label: "Machine readable", Key: "machine_readable", Format: "boolean"},
		{Label: "Copyright lines", Key: "copyright_lines", Format: "integer"},
		{Label: "Size", Key: "bytes", Format: "integer"},
	}
)

type options struct {
	Packages []string `json:"packages"`
}

// survey returns the row of one package.
func survey(name string, text []byte) map[string]any {
	found := map[string]bool{}
	copyrights := 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if match := field.FindStringSubmatch(line); match != nil {
			found[strings.TrimSpace(match[1])] = true
		}
		if strings.Contains(strings.ToLower(line), "copyright") {
			copyrights++
		}
	}
	readable := len(found) > 0
	if !readable { // an older file: it names the common licences it stands under in its prose
		for _, match := range reference.FindAllSubmatch(text, -1) {
			found[string(match[1])] = true
		}
	}
	licences := make([]string, 0, len(found))
	for licence := range found {
		licences = append(licences, licence)
	}
	sort.Strings(licences)
	return map[string]any{
		"package": name, "licences": licences, "machine_readable": readable,
		"copyright_lines": copyrights, "bytes": len(text),
	}
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
	if _, err := coresdk.Result.SetTableHeader(ctx, columns); err != nil {
		return err
	}
	surveyed := 0
	for _, pattern := range input.Packages {
		if strings.Contains(pattern, "/") {
			return fmt.Errorf("%q is no pattern for a package name", pattern)
		}
		paths, err := filepath.Glob(filepath.Join(documents, pattern, "copyright"))
		if err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
		for _, path := range paths {
			name := filepath.Base(filepath.Dir(path))
			content, err := os.ReadFile(path)
			if err != nil {
				_, _ = coresdk.Log.Warn(ctx, fmt.Sprintf("%s cannot be read: %v", name, err))
				continue
			}
			response, err := coresdk.Result.UpsertData(ctx, survey(name, content), "package")
			if err != nil {
				return err
			}
			if response.GetCode() != 0 {
				return fmt.Errorf("%s was not accepted: %s", name, response.GetMessage())
			}
			surveyed++
		}
	}
	if surveyed == 0 {
		return fmt.Errorf("no package matches %s", strings.Join(input.Packages, ", "))
	}
	_, err = coresdk.Log.Info(ctx, fmt.Sprintf("%d packages surveyed", surveyed))
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
