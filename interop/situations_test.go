//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// The addresses in TestSituations, which all are this machine's in a network namespace of its own.
const (
	lbIP      = "10.0.0.5"
	otherLBIP = "10.0.0.6"
	caddyIP   = "10.0.0.20"
	userIP    = "203.0.113.7"
)

// mistake is one of the common mistakes when a load balancer and Caddy are set up.
type mistake struct {
	name string
	// haproxy is how the load balancer is set up, and cured how it is set up well, if that is the
	// cure. There may be more than one.
	haproxy haproxySetup
	cured   []haproxySetup
	// options are those of the listener wrapper, and sites replaces the sites of the Caddyfile.
	options, sites string
	// log is in the first line of the log that an operator sees, and status in the status.
	log    []string
	status []string
	// paste is the line of the hint that is the cure, and remove an option that the hint says to remove.
	paste, remove string
	// pasteSite is the site to add, if that is the cure.
	pasteSite string
	// url is what the user asks for, and answer what the user gets after the cure.
	url, answer string
}

// haproxySetup is the configuration of a load balancer, from its bind line on, and of one in front of
// it, if there is one.
type haproxySetup struct{ bind, server, front string }

const (
	securePort = "10.0.0.20:443"
	plainPort  = "10.0.0.20:8080"
	hello      = "Hello " + userIP
	secureURL  = "https://localhost/"
	trustLB    = "proxy_protocol_mode on {\n\ttrusted_proxies static " + lbIP + "\n}"
	tlsSite    = "https://localhost {\n\ttls DIR/server.pem DIR/key.pem\n\trespond \"Hello {remote_host}\"\n}\n"
	otherSites = "http://:8080 {\n\trespond \"Hello {remote_host}\"\n}\nhttp:// {\n\tlog\n}\n"
)

// throughTLS passes TLS through to Caddy.
var throughTLS = haproxySetup{":443", securePort + " send-proxy-v2", ""}

var mistakes = []mistake{
	{
		name:    "The load balancer sends no header",
		haproxy: haproxySetup{":443", securePort, ""}, cured: []haproxySetup{throughTLS},
		options: trustLB,
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"missing"`, `"received":"tls"`, "if this is your load balancer, make it send a PROXY protocol header"},
		status:  []string{"10.0.0.5 sends no header", "if it is your load balancer, make it send PROXY protocol headers"},
	},
	{
		name:    "The load balancer sends headers, and the mode is 'off'",
		haproxy: throughTLS,
		options: "proxy_protocol_mode off",
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"forbidden"`, `"received":"v2"`},
		status:  []string{"10.0.0.5 sends headers, which mode 'off' refuses"},
		paste:   "on 10.0.0.5",
	},
	{
		name:    "The load balancer is not in 'trusted_proxies'",
		haproxy: throughTLS,
		options: "proxy_protocol_mode on {\n\ttrusted_proxies static 192.0.2.0/24\n}",
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"untrusted"`},
		status:  []string{"10.0.0.5 is not in 'trusted_proxies'"},
		paste:   "on 10.0.0.5",
	},
	{
		name:    "The same, on Caddy's own machine",
		haproxy: haproxySetup{":443", securePort + " send-proxy-v2 source 127.0.0.1", ""},
		options: "proxy_protocol_mode on {\n\ttrusted_proxies static 192.0.2.0/24\n}",
		log:     []string{`"peer":"127.0.0.1:`, `"reason":"untrusted"`, "if your load balancer runs on this machine"},
		status:  []string{"127.0.0.1 is not in 'trusted_proxies'"},
		paste:   "on 127.0.0.1",
	},
	{
		name:    "Health checks have no header",
		haproxy: haproxySetup{":443", securePort + " send-proxy-v2 check port 8080 inter 200ms", ""},
		cured:   []haproxySetup{{":443", securePort + " send-proxy-v2 check port 8080 inter 200ms check-send-proxy", ""}},
		options: trustLB,
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"missing"`, `"received":"http"`, "for its health checks, too"},
		status:  []string{"10.0.0.5 sends no header", "for its health checks, too"},
	},
	{
		name:    "Redirects on port 80 have no wrapper",
		haproxy: haproxySetup{":80", "10.0.0.20:80 send-proxy-v2", ""},
		options: trustLB, sites: tlsSite,
		url:       "http://localhost/",
		log:       []string{"port 80 has no 'proxy_protocol_mode' and answers a header with 400"},
		status:    []string{"srv0"},
		pasteSite: "http:// {\n\tlog\n}\n",
		answer:    "308",
	},
	{
		name:    "TLS ends at the load balancer, which sends plain HTTP to the TLS port",
		haproxy: haproxySetup{":443 ssl crt DIR/both.pem", securePort + " send-proxy-v2", ""},
		cured:   []haproxySetup{{":443 ssl crt DIR/both.pem", plainPort + " send-proxy-v2", ""}},
		options: trustLB,
		log:     []string{"received plain HTTP behind a PROXY protocol header, but this port is for TLS", `"peer":"10.0.0.5:`},
		status:  []string{"plain HTTP arrives behind the header, but this port is for TLS"},
	},
	{
		name:    "TLS is passed through to the plain port",
		haproxy: haproxySetup{":443", plainPort + " send-proxy-v2", ""}, cured: []haproxySetup{throughTLS},
		options: trustLB,
		log:     []string{"received TLS behind a PROXY protocol header, but this port is for plain HTTP", `"peer":"10.0.0.5:`},
		status:  []string{"TLS arrives behind the header, but this port is for plain HTTP"},
	},
	{
		name:    "v1 arrives, and only v2 is allowed",
		haproxy: haproxySetup{":443", securePort + " send-proxy", ""}, cured: []haproxySetup{throughTLS},
		options: "proxy_protocol_mode on {\n\ttrusted_proxies static " + lbIP + "\n\tversion v2\n}",
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"version"`, `"received":"v1"`, "the header has version 1, but only version 2 is allowed", "set it to the other version, or remove the option 'version'"},
		status:  []string{"was refused as version"},
		remove:  "version v2",
	},
	{
		name:    "Two load balancers in a row, and both send a header",
		haproxy: haproxySetup{":443", securePort + " send-proxy-v2", "send-proxy-v2"},
		cured: []haproxySetup{
			{":443 accept-proxy", securePort + " send-proxy-v2", "send-proxy-v2"},
			{":443", securePort, "send-proxy-v2"},
		},
		options: trustLB,
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"duplicate"`, `"source":"10.0.0.6:`, "if that is another load balancer of yours, make 10.0.0.5 read the header of that one, or send none itself"},
		status:  []string{"was refused as duplicate: the first header names 10.0.0.6:"},
	},
	{
		name:    "Headers are larger than 'max_header_size'",
		haproxy: haproxySetup{":443", securePort + " send-proxy-v2 " + largeTLVs, ""},
		options: trustLB,
		log:     []string{`"peer":"10.0.0.5:`, `"reason":"too_large"`, "the header announces ", "but max_header_size is 4096"},
		status:  []string{"was refused as too_large"},
		paste:   "max_header_size 8192",
	},
}

// largeTLVs are options of HAProxy 3 that make headers of more than 4096 bytes.
var largeTLVs = strings.Repeat(`set-proxy-v2-tlv-fmt(0xE5) "%[str(`+strings.Repeat("x", 450)+`)]" `, 10)

// situationsVariable is set in the environment of the test in the network namespace.
const situationsVariable = "SITUATIONS"

// TestSituations sets up each mistake with a real HAProxy and a real Caddy, and prints what an operator
// sees: what the user gets, the log, and the status. It asserts that the first line leads to the cause,
// and that the cure which it names is one: the line is pasted, or the load balancer is set up well, and
// the user is served.
//
// It runs in a network namespace of its own, where load balancers have private addresses and users
// public ones. Anyone may make one where the system allows user namespaces; else it needs root.
func TestSituations(t *testing.T) {
	if os.Getenv(situationsVariable) == "" {
		runInNamespace(t)
		return
	}
	for i, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			fmt.Printf("\n======== %d. %s\n", i+1, m.name)
			m.run(t)
		})
	}
	t.Run("The wrapper comes after 'tls'", func(t *testing.T) {
		fmt.Printf("\n======== %d. The wrapper comes after 'tls'\n", len(mistakes)+1)
		testWrapperAfterTLS(t)
	})
}

// runInNamespace runs TestSituations in a network namespace.
func runInNamespace(t *testing.T) {
	t.Helper()
	unshare, ip := peers.Need(t, "unshare", "util-linux"), peers.Need(t, "ip", "iproute2")
	self, err := os.Executable()
	require.NoError(t, err)
	script := ip + " link set lo up && "
	for _, address := range []string{lbIP, otherLBIP, caddyIP, userIP} {
		script += ip + " addr add " + address + "/32 dev lo && "
	}
	// What connects to Caddy from there, such as a check, does so as the load balancer.
	script += ip + " route replace local " + caddyIP + " dev lo table local src " + lbIP + " && "
	flags := "-rn" // as the root of a user namespace
	if os.Geteuid() == 0 {
		flags = "-n"
	}
	cmd := exec.Command(unshare, flags, "sh", "-c", script+`exec "$0" -test.run='^TestSituations$' -test.v`, self)
	cmd.Env = append(os.Environ(), situationsVariable+"=1", caddyVariable+"="+caddyProgram)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	require.NoError(t, cmd.Run(), "in a network namespace")
}

// operator is an operator of the Caddy of a mistake.
type operator struct {
	dir  string
	logs logFile
}

func (m mistake) run(t *testing.T) {
	o := newOperator(t)
	o.write(t, m.caddyfile(m.options, ""))
	fmt.Printf("-- Caddy\n%s\n", m.options)
	peers.Start(t, nil, caddyProgram, "run", "--config", filepath.Join(o.dir, "Caddyfile"))
	eventually(t, "Caddy does not start", func() bool { _, err := os.Stat(o.logs.path); return err == nil })
	o.logs.waitFor(t, func(e entry) bool { return e.Message == "serving initial configuration" })

	t.Run("mistake", func(t *testing.T) {
		o.startHAProxy(t, m.haproxy)
		m.printHAProxy(m.haproxy)
		got := o.ask(t, m.url, patience)
		fmt.Printf("-- the user gets\n%s\n", got)
		assert.NotContains(t, got, hello)
		first := o.firstLine(t)
		fmt.Printf("-- the log says first\n%s\n", first)
		for _, part := range m.log {
			assert.Contains(t, first, part)
		}
		status := o.status(t)
		fmt.Printf("-- the status says\n%s", status)
		check := o.check(t, m.haproxy)
		fmt.Printf("-- a check on the load balancer says\n%s", check)
		words := strings.Join(strings.Fields(status), " ")
		for _, part := range m.status {
			assert.Contains(t, words, part)
		}
		options := m.options
		switch {
		case m.paste != "":
			line := regexp.MustCompile(`'proxy_protocol_mode': ((?:on|off|max_header_size) [0-9a-f.:]+)`)
			for where, text := range map[string]string{"the log": first, "the status": words} {
				found := line.FindStringSubmatch(text)
				require.NotNil(t, found, "no line to paste in %s", where)
				require.Equal(t, m.paste, found[1], where)
			}
			options = pasted(options, m.paste)
			fmt.Printf("-- the line is pasted\n%s\n", options)
		case m.pasteSite != "":
			assert.Contains(t, first, strings.Join(strings.Fields(m.pasteSite), " "))
			fmt.Printf("-- the site is pasted\n%s", m.pasteSite)
		case m.remove != "":
			options = strings.Replace(options, "\t"+m.remove+"\n", "", 1)
			fmt.Printf("-- the option is removed\n%s\n", options)
		default:
			return
		}
		o.write(t, m.caddyfile(options, m.pasteSite))
		o.caddy(t, "reload", "--config", filepath.Join(o.dir, "Caddyfile"))
		o.requireCured(t, m)
		assert.NotContains(t, o.status(t), "hint:", "after the cure")
		o.write(t, m.caddyfile(m.options, ""))
		o.caddy(t, "reload", "--config", filepath.Join(o.dir, "Caddyfile"))
	})
	for i, cured := range m.cured {
		t.Run(fmt.Sprintf("cure %d", i+1), func(t *testing.T) {
			o.startHAProxy(t, cured)
			m.printHAProxy(cured)
			o.requireCured(t, m)
		})
	}
}

// requireCured asserts that a user is served, and prints what the user gets.
func (o operator) requireCured(t *testing.T, m mistake) {
	t.Helper()
	want, got := m.answer, ""
	if want == "" {
		want = hello
	}
	// Health checks have to succeed first, and a reload to close the listeners before. On a busy machine
	// a connection once in a while gets no answer at all, so that one request must not take all the
	// time: the next one has another port.
	eventually(t, "not cured", func() bool {
		got = o.ask(t, m.url, patience/5)
		return strings.Contains(got, want)
	})
	fmt.Printf("-- the user gets\n%s\n", got)
}

// newOperator returns an operator with certificates in a directory.
func newOperator(t *testing.T) operator {
	t.Helper()
	authority := newAuthority(t)
	certificate := authority.server(t)
	dir := peers.Files(t, map[string]string{
		"ca.pem":     authority.pem,
		"server.pem": certificate.pem,
		"key.pem":    certificate.key,
		"both.pem":   certificate.pem + certificate.key,
	})
	return operator{dir, logFile{path: filepath.Join(dir, "log")}}
}

// caddyfile returns a Caddyfile with these options of the listener wrapper, and one more site.
func (m mistake) caddyfile(options, site string) string {
	sites := m.sites
	if sites == "" {
		sites = tlsSite + otherSites
	}
	return `{
	default_bind ` + caddyIP + `
	persist_config off
	skip_install_trust
	storage file_system DIR/storage
	log {
		output file DIR/log
		format json
	}
	servers {
		listener_wrappers {
			` + options + `
			tls
		}
	}
}
` + sites + site
}

// pasted returns options of the listener wrapper with one more line.
func pasted(options, line string) string {
	if before, ok := strings.CutSuffix(options, "}"); ok {
		return before + "\t" + line + "\n}"
	}
	return options + " {\n\t" + line + "\n}"
}

// write writes the Caddyfile.
func (o operator) write(t *testing.T, caddyfile string) {
	t.Helper()
	caddyfile = strings.ReplaceAll(caddyfile, "DIR", o.dir)
	require.NoError(t, os.WriteFile(filepath.Join(o.dir, "Caddyfile"), []byte(caddyfile), 0o600))
}

// caddy runs a command of Caddy, and returns what it prints.
func (o operator) caddy(t *testing.T, args ...string) string {
	t.Helper()
	output, err := exec.Command(caddyProgram, args...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	return string(output)
}

// status returns the status of Caddy as an operator sees it.
func (o operator) status(t *testing.T) string {
	t.Helper()
	return o.caddy(t, "proxy-protocol", "status")
}

// check returns what a check says that is run on the load balancer. It connects to the port of the
// load balancer's server.
func (o operator) check(t *testing.T, s haproxySetup) string {
	t.Helper()
	address, _, _ := strings.Cut(s.server, " ")
	args := []string{"proxy-protocol", "check", "--timeout", "2s", address}
	if address == securePort {
		args = append(args, "--tls", "--sni", "localhost")
	}
	output, _ := exec.Command(caddyProgram, args...).CombinedOutput() // its exit code says what it found
	require.Contains(t, string(output), "Verdict: ")
	return string(output)
}

// firstLine waits for a line of the module's log that says what is wrong, and returns the first.
func (o operator) firstLine(t *testing.T) (line string) {
	t.Helper()
	eventually(t, "the log says nothing", func() bool {
		text, err := os.ReadFile(o.logs.path)
		require.NoError(t, err)
		for l := range strings.Lines(string(text)) {
			if strings.Contains(l, `"logger":"caddy.listeners.proxy_protocol_mode"`) && !strings.Contains(l, `"msg":"HTTP/3 is disabled`) && !strings.Contains(l, `"msg":"checking PROXY`) {
				line = strings.TrimSpace(l)
				return true
			}
		}
		return false
	})
	return line
}

// ask returns what a user gets who asks for a URL.
func (o operator) ask(t *testing.T, url string, most time.Duration) string {
	t.Helper()
	if url == "" {
		url = secureURL
	}
	output, _ := exec.Command("curl", "--silent", "--show-error", "--max-time", fmt.Sprint(most.Seconds()), "--interface", userIP, "--cacert", filepath.Join(o.dir, "ca.pem"),
		"--connect-to", "::"+userFacing+":", "--write-out", " (%{http_code})", url).CombinedOutput()
	return strings.TrimSpace(string(output))
}

// userFacing is the address to which users connect.
const userFacing = otherLBIP

// configuration returns HAProxy's configuration of the load balancers. Users connect to the first one.
func (s haproxySetup) configuration() string {
	const defaults = "defaults\n\tmode tcp\n\ttimeout client 30s\n\ttimeout server 30s\n\ttimeout connect 30s\n\ttimeout check 30s\n\tretries 0\n\toption httpchk\n\thttp-check send meth GET uri / ver HTTP/1.1 hdr Host localhost\n"
	source := ""
	if !strings.Contains(s.server, "source ") {
		source = " source " + lbIP
	}
	if s.front == "" {
		return defaults + "listen lb\n\tbind " + userFacing + s.bind + "\n\tserver caddy " + s.server + source + "\n"
	}
	return defaults + "listen front\n\tbind " + userFacing + ":443\n\tserver lb " + lbIP + ":443 " + s.front + " source " + otherLBIP + "\n" +
		"listen lb\n\tbind " + lbIP + s.bind + "\n\tserver caddy " + s.server + source + "\n"
}

// startHAProxy runs load balancers until the test ends. They are one process, and HAProxy 3 where the
// setup needs it.
func (o operator) startHAProxy(t *testing.T, s haproxySetup) {
	t.Helper()
	program := haproxies[0]
	if strings.Contains(s.server, "set-proxy-v2-tlv-fmt") {
		program = haproxies[1]
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(s.configuration(), "DIR", o.dir)), 0o600))
	path := program.path(t)
	peers.Start(t, nil, path, "-db", "-f", file)
	port, _, _ := strings.Cut(strings.TrimPrefix(s.bind, ":"), " ")
	// A connection to find that out would be the first that Caddy sees.
	eventually(t, "HAProxy does not listen", func() bool {
		listening, err := exec.Command("ss", "-Hltn", "sport = :"+port).Output()
		require.NoError(t, err)
		return strings.Contains(string(listening), userFacing+":"+port)
	})
}

func (m mistake) printHAProxy(s haproxySetup) {
	for line := range strings.Lines(s.configuration()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "bind") || strings.HasPrefix(line, "server") {
			if len(line) > 150 {
				line = line[:150] + " ..."
			}
			fmt.Printf("-- HAProxy: %s\n", line)
		}
	}
}

// testWrapperAfterTLS asserts that Caddy says the same at every load, and that it loads the lines of
// the error.
func testWrapperAfterTLS(t *testing.T) {
	const loads = 8
	o := newOperator(t)
	m := mistake{}
	// Without a file for the log, errors are on the terminal.
	unlogged := func(caddyfile string) string {
		before, after, _ := strings.Cut(caddyfile, "\tlog {\n")
		_, after, _ = strings.Cut(after, "\t}\n")
		return before + after
	}
	o.write(t, unlogged(strings.Replace(m.caddyfile("tls\n"+trustLB, ""), "}\n\t\t\ttls\n", "}\n", 1)))
	var errors []string
	for range loads {
		output, err := exec.Command(caddyProgram, "validate", "--config", filepath.Join(o.dir, "Caddyfile")).CombinedOutput()
		require.Error(t, err, "%s", output)
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		var last entry
		require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last), "%s", output)
		errors = append(errors, last.Message)
	}
	fmt.Printf("-- Caddy\ntls\n%s\n-- 'caddy run' says\n%s\n", trustLB, errors[0])
	for _, message := range errors {
		assert.Equal(t, errors[0], message)
	}
	assert.Contains(t, errors[0], "listener wrapper 'proxy_protocol_mode' must come before 'tls'")
	_, lines, found := strings.Cut(errors[0], "write:\n\n")
	require.True(t, found)
	block := regexp.MustCompile(`(?s)listener_wrappers \{.*\n\t\t\}\n`)
	o.write(t, block.ReplaceAllLiteralString(m.caddyfile("", ""), lines+"\n"))
	peers.Start(t, nil, caddyProgram, "run", "--config", filepath.Join(o.dir, "Caddyfile"))
	o.startHAProxy(t, throughTLS)
	fmt.Printf("-- the lines are pasted\n%s\n", lines)
	o.requireCured(t, m)
}
