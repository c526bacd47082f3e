package command

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// This file provisions a configuration, as 'caddy validate' does, and collects what the modules say.
// So each rule is where it is at load, and lint knows of those that are added later.

// loaded is a configuration that was provisioned.
type loaded struct {
	// err is the error at load, or nil. With an error, there is nothing else.
	err error
	// warnings are the warnings of this module, sorted.
	warnings []warning
	// servers are the HTTP servers, by name.
	servers map[string]*loadedServer
}

// loadedServer is an HTTP server as Caddy would run it. Its slices have an element for each address.
type loadedServer struct {
	listen     []string
	atHTTPPort []bool
	http3      []bool
	tls        bool
	// http3Refused says that the wrapper disabled HTTP/3.
	http3Refused bool
	redirects    bool
	acme         bool
	// host is a name that the server serves, or empty.
	host string
}

// warning is a log entry of this module at level WARN.
type warning struct {
	logger, message string
	server          string
	where           []string // the other fields
}

// redirectServer is the name of the server that automatic HTTPS adds for its redirects.
const redirectServer = "remaining_auto_https_redirects"

// provision provisions a configuration, without running it.
func provision(config []byte) *loaded {
	collecting.Lock()
	defer collecting.Unlock()
	registerCollectors()
	into := &loaded{servers: make(map[string]*loadedServer)}
	collecting.into.set(into)
	defer collecting.into.set(nil)

	var cfg *caddy.Config
	if into.err = caddy.StrictUnmarshalJSON(config, &cfg); into.err == nil && cfg == nil {
		into.err = fmt.Errorf("decoding config: it is empty")
	}
	if into.err != nil {
		return &loaded{err: into.err}
	}
	// The log of the configuration may leave out warnings, and its files are not lint's to open.
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{
			Level:   "ERROR", // on standard error, where the command's own error goes as well
			CoreRaw: json.RawMessage(`{"module":"` + collectorName + `"}`),
		}},
	}}
	if cfg.AppsRaw == nil {
		cfg.AppsRaw = make(caddy.ModuleMap)
	}
	cfg.AppsRaw[collectorName] = json.RawMessage(`{}`)
	if err := validate(cfg); err != nil {
		return &loaded{err: cmp.Or(into.err, err)}
	}
	into.refineWarnings()
	return into
}

// validate returns the error of a configuration. Caddy panics because of some mistakes.
func validate(cfg *caddy.Config) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("loading the configuration panics: %v", panicked)
		}
	}()
	return caddy.Validate(cfg)
}

// refineWarnings sorts warnings, because Caddy provisions servers in random order.
func (l *loaded) refineWarnings() {
	compare := func(a, b warning) int {
		return cmp.Or(cmp.Compare(a.server, b.server), cmp.Compare(a.message, b.message), slices.Compare(a.where, b.where))
	}
	slices.SortFunc(l.warnings, compare)
	l.warnings = slices.CompactFunc(l.warnings, func(a, b warning) bool { return compare(a, b) == 0 })
	for _, w := range l.warnings {
		if server := l.servers[w.server]; server != nil && w.isHTTP3Disabled() {
			server.http3Refused = true
		}
	}
}

// isHTTP3Disabled reports whether the warning is that HTTP/3 is disabled.
func (w *warning) isHTTP3Disabled() bool { return strings.HasPrefix(w.message, request.HTTP3Disabled) }

// collectorName is the name of the modules that collect what lint needs: an app, which finds the
// HTTP app after it was provisioned, and a core of the log.
const collectorName = "proxy_protocol_lint"

// collecting has the configuration that is being provisioned. There is one at a time.
var collecting struct {
	sync.Mutex // held while a configuration is provisioned
	into       collectingInto
}

// collectingInto is a configuration that log entries are added to. They may come from other
// goroutines, and after the configuration was provisioned.
type collectingInto struct {
	mu sync.Mutex
	l  *loaded // guarded by mu
}

func (c *collectingInto) set(l *loaded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l = l
}

func (c *collectingInto) change(f func(*loaded)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.l != nil {
		f(c.l)
	}
}

// registerCollectors registers the modules, when lint runs for the first time: they are not for
// configurations.
var registerCollectors = sync.OnceFunc(func() {
	caddy.RegisterModule(appCollector{})
	caddy.RegisterModule(logCollector{})
})

// logCollector is a core of the log that keeps this module's warnings.
type logCollector struct{ fields []zapcore.Field }

// CaddyModule returns the Caddy module information.
func (logCollector) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.cores." + collectorName,
		New: func() caddy.Module { return new(logCollector) },
	}
}

// The methods of zapcore.Core.

// Enabled implements zapcore.LevelEnabler.
func (c *logCollector) Enabled(level zapcore.Level) bool { return level == zapcore.WarnLevel }

// With returns a core with more fields.
func (c *logCollector) With(fields []zapcore.Field) zapcore.Core {
	return &logCollector{slices.Concat(c.fields, fields)}
}

// Check adds the core to those that write an entry, if the entry is of this module.
func (c *logCollector) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	own := strings.Contains(e.LoggerName, "proxy_protocol") || strings.Contains(e.LoggerName, "pinned_ip")
	if !own || !c.Enabled(e.Level) {
		return checked
	}
	return checked.AddCore(e, c)
}

// Write keeps an entry.
func (c *logCollector) Write(e zapcore.Entry, fields []zapcore.Field) error {
	all := zapcore.NewMapObjectEncoder()
	for _, field := range slices.Concat(c.fields, fields) {
		field.AddTo(all)
	}
	w := warning{logger: e.LoggerName, message: e.Message}
	for _, key := range slices.Sorted(maps.Keys(all.Fields)) {
		switch value := all.Fields[key].(type) {
		case []any:
			for _, element := range value {
				w.where = append(w.where, fmt.Sprint(element))
			}
		default:
			if key == "server_name" {
				w.server = fmt.Sprint(value)
			} else {
				w.where = append(w.where, fmt.Sprintf("%s %v", key, value))
			}
		}
	}
	collecting.into.change(func(l *loaded) { l.warnings = append(l.warnings, w) })
	return nil
}

// Sync implements zapcore.Core.
func (c *logCollector) Sync() error { return nil }

// appCollector is an app that looks at the HTTP app.
type appCollector struct{}

// CaddyModule returns the Caddy module information.
func (appCollector) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: collectorName, New: func() caddy.Module { return new(appCollector) }}
}

// Start and Stop implement caddy.App. The app is never started.
func (*appCollector) Start() error { return nil }

// Stop does nothing.
func (*appCollector) Stop() error { return nil }

// Provision looks at the servers of the HTTP app.
func (*appCollector) Provision(ctx caddy.Context) error {
	app, err := ctx.AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil
	}
	if err != nil {
		// Caddy tries the apps in random order. Here the error is as if this app were not there.
		collecting.into.change(func(l *loaded) { l.err = err })
		return nil
	}
	collecting.into.change(func(l *loaded) {
		http := app.(*caddyhttp.App)
		l.look(http, request.NeedsHTTPChallenge(ctx, http))
	})
	return nil
}

// look keeps what lint needs of the HTTP app. acme says that it needs ACME's HTTP challenge.
func (l *loaded) look(app *caddyhttp.App, acme bool) {
	port := request.HTTPPort(app)
	for name, server := range app.Servers {
		s := &loadedServer{listen: slices.Clone(server.Listen), tls: len(server.TLSConnPolicies) > 0}
		for i, listen := range server.Listen {
			addr, err := caddy.ParseNetworkAddress(listen)
			network := err == nil && !addr.IsUnixNetwork()
			s.http3 = append(s.http3, s.tls && network && slices.Contains(request.ProtocolsOf(server, i), "h3"))
			s.atHTTPPort = append(s.atHTTPPort, request.HasTCPPort(listen, port))
		}
		s.host = hostOf(server)
		s.redirects = slices.ContainsFunc(server.Routes, isRedirect)
		s.acme = acme
		l.servers[name] = s
	}
}

// hostOf returns a name that a server serves, or an empty text if it serves any.
func hostOf(server *caddyhttp.Server) string {
	if hosts := request.HostsOf(server); len(hosts) > 0 {
		return strings.ReplaceAll(hosts[0], "*", "any")
	}
	for _, p := range server.TLSConnPolicies {
		if name := cmp.Or(p.DefaultSNI, p.FallbackSNI); name != "" {
			return name
		}
	}
	return ""
}

// isRedirect reports whether automatic HTTPS added the route. Its handler is a value, and those of
// configurations are pointers.
func isRedirect(route caddyhttp.Route) bool {
	return slices.ContainsFunc(route.Handlers, func(handler caddyhttp.MiddlewareHandler) bool {
		_, ok := handler.(caddyhttp.StaticResponse)
		return ok
	})
}

// http3Of says what becomes of HTTP/3 on an address, as the status does.
func (s *loadedServer) http3Of(i int, server *lintServer) string {
	switch {
	case s.http3Refused:
		return statusapi.HTTP3Disabled
	case !s.http3[i]:
		return ""
	case server.packetWrapper() != nil:
		return statusapi.HTTP3Checked
	default:
		return statusapi.HTTP3Unchecked
	}
}

// warningFindings returns the findings of warnings. The text behind the first semicolon of a warning
// says what to do.
func (c *lintConfig) warningFindings(warnings []warning, servers []*lintServer) (findings []finding) {
	for _, w := range warnings {
		i := slices.IndexFunc(servers, func(s *lintServer) bool { return s.name == w.server })
		if i >= 0 && w.isHTTP3Disabled() && servers[i].packetWrapper() == nil {
			continue // no mistake, but what mode 'on' does by default
		}
		problem, fix, _ := strings.Cut(w.message, "; ")
		f := finding{Kind: findingWarning, Where: w.where, Problem: problem, Fix: fix}
		if w.server != "" {
			f.Servers = []string{w.server}
		}
		// A warning about the options of a wrapper begins with the option.
		if i >= 0 && (strings.HasPrefix(problem, "mode '") || strings.HasPrefix(problem, "'trusted_proxies'")) {
			list := listenerWrappers
			if strings.HasPrefix(w.logger, "caddy.packetconns.") {
				list = packetWrappers
			}
			for of, wrapper := range servers[i].both() {
				if of == list && wrapper != nil {
					f.Where = append(f.Where, list)
					f.Lines = c.lines(wrapper.safe())
				}
			}
		}
		findings = append(findings, f)
	}
	return findings
}
