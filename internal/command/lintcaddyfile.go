package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// This file finds what Caddy drops from a Caddyfile without a word. The JSON does not have it any more,
// so lint has Caddy's own parser read the file again, with its imports, snippets and variables.

// droppedFindings returns findings for 'servers' options that Caddy drops.
func (c *lintConfig) droppedFindings(servers []*lintServer) []finding {
	return c.unmatchedServers(serversOptionsIn(c.blocks()), servers)
}

// blocks returns the blocks of the Caddyfile, or nil if the configuration is not one.
func (c *lintConfig) blocks() []caddyfile.ServerBlock {
	if !c.isCaddyfile() {
		return nil
	}
	blocks, _ := caddyfile.Parse(c.file, c.input) // it has been adapted, so there is no error
	return blocks
}

// serversOptions are the global options 'servers'.
type serversOptions struct {
	at      string // file and line
	address string // or empty
	wraps   bool   // they have the wrapper
}

// serversOptionsIn returns all global options 'servers'.
func serversOptionsIn(blocks []caddyfile.ServerBlock) (all []serversOptions) {
	if len(blocks) == 0 || len(blocks[0].Keys) > 0 {
		return nil // no global options
	}
	for _, segment := range blocks[0].Segments {
		if segment.Directive() != "servers" {
			continue
		}
		o := serversOptions{at: position(segment[0])}
		d := caddyfile.NewDispenser(segment)
		d.Next()
		if d.NextArg() {
			o.address = d.Val()
		}
		o.wraps = slices.ContainsFunc(segment, func(t caddyfile.Token) bool { return t.Text == request.WrapperName })
		all = append(all, o)
	}
	// As in Caddy, the options with the longest address that a server has are those of the server.
	slices.SortStableFunc(all, func(a, b serversOptions) int { return len(b.address) - len(a.address) })
	return all
}

// position returns the file and the line of a token.
func position(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", t.File, t.Line) }

// unmatchedServers returns findings for 'servers' options with the wrapper that Caddy drops, because no
// server has their address.
func (c *lintConfig) unmatchedServers(options []serversOptions, servers []*lintServer) (findings []finding) {
	used := make([]bool, len(options))
	for _, server := range servers {
		i := slices.IndexFunc(options, func(o serversOptions) bool {
			return o.address == "" || slices.Contains(server.Listen, o.address)
		})
		if i >= 0 {
			used[i] = true
		}
	}
	for i, o := range options {
		// Options without an address are for servers that may be added.
		if used[i] || !o.wraps || o.address == "" {
			continue
		}
		f := finding{
			Kind: findingServers, Where: []string{o.at},
			Problem: fmt.Sprintf("'servers %s' matches no listener, so Caddy ignores it, and nothing checks headers for it: the address must be exactly one that a server listens on", o.address),
		}
		var lines []string
		for _, server := range servers {
			j := slices.IndexFunc(server.Listen, func(listen string) bool { return samePort(listen, o.address) })
			switch {
			case slices.Contains(server.Listen, o.address):
				f.Problem = fmt.Sprintf("'servers %s' is ignored, because other 'servers' options match the same server", o.address)
				f.Fix = "keep one of them"
			case j >= 0:
				lines = append(lines, "servers "+server.Listen[j]+" {")
			}
		}
		switch {
		case f.Fix != "":
		case len(lines) > 0:
			f.Fix, f.Lines = "write the address as the server has it, in place of the first line of the options", strings.Join(lines, "\n")
		case c.isHTTPPort(o.address):
			f.Fix = "only Caddy's automatic redirects listen there, which have no wrapper: add a site, and the redirects use its server"
			f.Lines = "http:// {\n\tlog\n}"
		case len(servers) == 0:
			f.Fix = "no server listens: add a site"
		default:
			f.Fix = "the servers listen on " + strings.Join(addressesOf(servers), ", ") + ": write one of these, or leave the address out to match all servers"
		}
		findings = append(findings, f)
	}
	return findings
}

// samePort reports whether two addresses have the same port.
func samePort(a, b string) bool {
	first, err := caddy.ParseNetworkAddress(a)
	second, err2 := caddy.ParseNetworkAddress(b)
	return err == nil && err2 == nil && first.StartPort == second.StartPort && first.EndPort == second.EndPort && first.StartPort != 0
}

// isHTTPPort reports whether an address has the port for HTTP.
func (c *lintConfig) isHTTPPort(address string) bool {
	var config struct {
		Apps struct {
			HTTP struct {
				Port int `json:"http_port"`
			} `json:"http"`
		} `json:"apps"`
	}
	_ = json.Unmarshal(c.json, &config)
	port := config.Apps.HTTP.Port
	if port == 0 {
		port = caddyhttp.DefaultHTTPPort
	}
	return samePort(address, net.JoinHostPort("", fmt.Sprint(port)))
}

// addressesOf returns the addresses of all servers.
func addressesOf(servers []*lintServer) (all []string) {
	for _, server := range servers {
		all = append(all, server.Listen...)
	}
	return all
}

// lostGuards returns findings for named routes from which Caddy drops directives or matchers of this
// module. Of several directives that it could put into one route, Caddy keeps the first. Inside
// 'handle' it keeps them all, so lint compares with that.
func (c *lintConfig) lostGuards(servers []*lintServer) (findings []finding) {
	blocks := c.blocks()
	var named []caddyfile.Token
	for i, block := range blocks {
		if block.IsNamedRoute && len(block.Segments) == 1 && len(block.Segments[0]) > len("{}")+1 {
			named = append(named, block.Keys[0])
			blocks[i].Segments[0] = inHandle(block.Segments[0])
		}
	}
	if len(named) == 0 {
		return nil
	}
	complete, _, err := httpcaddyfile.ServerType{}.Setup(blocks, nil)
	if err != nil {
		return nil // not with 'handle'
	}
	adapted, _ := json.Marshal(complete)
	wholeServers, _ := (&lintConfig{json: adapted}).servers()
	for _, name := range named {
		lost := guardsOf(wholeServers, name.Text)
		for _, kept := range guardsOf(servers, name.Text) {
			if i := slices.Index(lost, kept); i >= 0 {
				lost = slices.Delete(lost, i, i+1)
			}
		}
		if len(lost) == 0 {
			continue
		}
		slices.Sort(lost)
		findings = append(findings, finding{
			Kind: findingNamedRoute, Where: append([]string{position(name)}, slices.Compact(lost)...),
			Problem: fmt.Sprintf("Caddy drops these directives or matchers from the named route '%s', because it keeps only the first of several directives: the route does not check them", name.Text),
			Fix:     fmt.Sprintf("put all directives of the route inside of 'handle': write 'handle {' in a line behind '&(%s) {', and '}' in a line before its end", name.Text),
		})
	}
	return findings
}

// inHandle returns the tokens of a named route, which begin with its name and a brace, with everything
// between the braces inside of 'handle'.
func inHandle(route caddyfile.Segment) caddyfile.Segment {
	body := route[2 : len(route)-1]
	begin, last := route[1], body[len(body)-1]
	inner, end := route[len(route)-1].Clone(), route[len(route)-1].Clone()
	inner.File, inner.Line = last.File, last.Line+last.NumLineBreaks()+1
	end.Line = max(end.Line, inner.Line) + 1
	return slices.Concat(route[:2], caddyfile.Segment{
		{File: begin.File, Line: begin.Line, Text: "handle"},
		{File: begin.File, Line: begin.Line, Text: "{"},
	}, body, caddyfile.Segment{inner, end})
}

// guardsOf returns the directives and matchers of this module in a named route of the servers.
func guardsOf(servers []*lintServer, name string) (guards []string) {
	for _, server := range servers {
		guards = append(guards, guardsIn(server.NamedRoutes[name])...)
	}
	return guards
}

// guardsIn returns the directives and matchers of this module in a part of the configuration.
func guardsIn(part any) (guards []string) {
	switch part := part.(type) {
	case []any:
		for _, element := range part {
			guards = append(guards, guardsIn(element)...)
		}
	case map[string]any:
		if part["handler"] == "proxy_protocol" {
			return []string{fmt.Sprintf("proxy_protocol %v", part["mode"])}
		}
		for key, value := range part {
			raw, _ := json.Marshal(value)
			switch {
			case key == "pinned_ip":
				var m struct {
					Ranges []string `json:"ranges"`
				}
				_ = json.Unmarshal(raw, &m)
				guards = append(guards, strings.Join(append([]string{key}, m.Ranges...), " "))
			case key == "proxy_protocol":
				var m match.Conditions
				_ = json.Unmarshal(raw, &m)
				guards = append(guards, m.String())
			case key == "expression" && (bytes.Contains(raw, []byte("pinned_ip(")) || bytes.Contains(raw, []byte("proxy_protocol("))):
				guards = append(guards, "expression "+match.WithoutSecrets(string(raw)))
			default:
				guards = append(guards, guardsIn(value)...)
			}
		}
	}
	return guards
}
