package docstest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/portzero/caddy-proxy-protocol"

// caddyVersion returns the version of Caddy in go.mod.
func caddyVersion(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\tgithub\.com/caddyserver/caddy/v2 (v\S+)$`).FindStringSubmatch(docsRead(t, "go.mod"))
	require.NotNil(t, found, "Caddy is not in go.mod")
	return found[1]
}

// TestRelease_BuildsTheSameCaddyEverywhere checks that README.md, the Dockerfile and .ci/run name the
// version of Caddy that the tests run.
func TestRelease_BuildsTheSameCaddyEverywhere(t *testing.T) {
	version := caddyVersion(t)
	build := "xcaddy build " + version + " --with " + modulePath
	assert.Contains(t, docsRead(t, readme), "\n"+build+"\n")
	assert.Contains(t, docsRead(t, filepath.Join(".ci", "run")), "\ncaddy_version="+version+"\n")
	assert.Contains(t, docsRead(t, "CHANGELOG.md"), "- **Caddy**: "+version+",")

	var lines []string
	for line := range strings.Lines(docsRead(t, "Dockerfile")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	image := "FROM caddy:" + strings.TrimPrefix(version, "v")
	assert.Equal(t, []string{
		image + "-builder AS builder",
		"RUN " + build,
		image,
		"COPY --from=builder /usr/bin/caddy /usr/bin/caddy",
	}, lines)
}

// TestRelease_WorkflowsRunTheTestsAndNothingElse checks that a workflow has no right but to read, pins
// its actions by commit, and runs .ci/run alone.
func TestRelease_WorkflowsRunTheTestsAndNothingElse(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(".github", "workflows", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	pinned := regexp.MustCompile(`(?m)^ *(?:- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, file := range files {
		text := docsRead(t, file)
		var workflow struct {
			Permissions map[string]string
			Jobs        map[string]struct {
				Permissions map[string]string
				Steps       []struct{ Uses, Run string }
			}
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &workflow), file)
		assert.Equal(t, map[string]string{"contents": "read"}, workflow.Permissions, file)
		assert.NotEmpty(t, workflow.Jobs, file)
		for name, job := range workflow.Jobs {
			assert.Empty(t, job.Permissions, "%s: %s", file, name)
			for _, step := range job.Steps {
				if step.Uses == "" {
					assert.Equal(t, ".ci/run", step.Run, "%s: %s", file, name)
				}
			}
		}
		assert.Len(t, pinned.FindAllString(text, -1), strings.Count(text, "uses:"), "%s: an action is not pinned by commit", file)
	}
}

// TestRelease_FormsAreYAML checks that GitHub can read the forms of issues.
func TestRelease_FormsAreYAML(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(".github", "ISSUE_TEMPLATE", "*.yml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		var form struct {
			Name, Description string
			Body              []struct {
				Type, ID   string
				Attributes struct{ Label, Value string }
			}
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &form), file)
		if filepath.Base(file) == "config.yml" {
			continue
		}
		assert.NotEmpty(t, form.Name, file)
		assert.NotEmpty(t, form.Description, file)
		assert.NotEmpty(t, form.Body, file)
		for _, field := range form.Body {
			assert.NotEmpty(t, field.Attributes.Label+field.Attributes.Value, file)
		}
	}
}

// TestRelease_ManPages checks what 'caddy manpage' makes of the command's help: lists stay lists, because
// they are indented as Markdown's code is.
func TestRelease_ManPages(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	command := exec.Command(self, "manpage", "--directory", dir)
	command.Args[0] = "caddy" // see TestMain
	command.Env = append(os.Environ(), "GOCOVERDIR="+t.TempDir())
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	for name, list := range map[string]string{
		"":        "",
		"-check":  "on           A header is mandatory",
		"-send":   "alpn, authority, ",
		"-decode": "",
		"-status": "",
	} {
		page := docsRead(t, filepath.Join(dir, "caddy-proxy-protocol"+name+".8"))
		assert.Contains(t, page, "docs/command.md", name)
		if list != "" {
			assert.Contains(t, page, ".EX\n"+list, name)
		}
	}
}

// TestReadme_IsShort checks that the README is one to be read, not a manual.
func TestReadme_IsShort(t *testing.T) {
	assert.LessOrEqual(t, strings.Count(docsRead(t, readme), "\n"), 200)
}

// TestReadme_QuotesTheLog checks that the messages under "Common mistakes" are those of the code.
func TestReadme_QuotesTheLog(t *testing.T) {
	var code strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
			code.WriteString(docsRead(t, path))
		}
		return err
	}))
	// Some messages are built from parts.
	source := strings.NewReplacer("port %d has no '%s'", "port 80 has no 'proxy_protocol_mode'").Replace(code.String())
	_, section, found := strings.Cut(docsRead(t, readme), "\n## Common mistakes\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	messages := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1)
	require.NotEmpty(t, messages)
	for _, message := range messages {
		assert.Contains(t, source, message[1])
	}
}
