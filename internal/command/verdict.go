package command

import (
	"fmt"
	"slices"
)

// probe is a way to begin a connection.
type probe int

const (
	noHeader probe = iota
	headerV1
	headerV2
	headerLocal
	twoHeadersV1
	twoHeadersV2
	wrongChecksum
	probeCount
)

// probeNames are the names of probes in tables and in JSON.
var probeNames = [probeCount]string{
	noHeader:      "no header",
	headerV1:      "v1 header",
	headerV2:      "v2 header",
	headerLocal:   "v2 LOCAL header",
	twoHeadersV1:  "two v1 headers",
	twoHeadersV2:  "two v2 headers",
	wrongChecksum: "v2 header, wrong checksum",
}

// bareName is the name of the probe with a v2 header without the TLVs or the signature that the
// others have.
const bareName = "v2 header, bare"

// String returns the name of the probe.
func (p probe) String() string { return probeNames[p] }

// reaction is the reaction of a listener to a probe.
type reaction int

const (
	// unreachable means that there was no connection. It is the zero value, so that a probe
	// that was not sent never counts as a good sign.
	unreachable reaction = iota
	// closed means that the listener closed the connection without a byte.
	closed
	// answered means that the listener completed a TLS handshake, or answered a request.
	answered
	// answered400 means that the listener answered with status 400.
	answered400
	// tlsFailed means that the listener answered, but the TLS handshake failed.
	tlsFailed
	// answeredOther means that the listener answered with anything else.
	answeredOther
	// timedOut means that the listener neither answered nor closed the connection in time.
	timedOut
)

// reactionNames has the name of each reaction in JSON, and its text in tables.

var reactionNames = [...]struct{ name, text string }{
	closed:        {"closed", "closed without a byte"},
	answered:      {"answered", "answered"},
	answered400:   {"answered_400", "answered"},
	tlsFailed:     {"tls_failed", "answered, but the TLS handshake failed"},
	answeredOther: {"answered_other", "answered, but not with HTTP"},
	timedOut:      {"timed_out", "neither answered nor closed in time"},
	unreachable:   {"unreachable", "unreachable"},
}

// probeResult is the result of one probe: the reaction, and an escaped detail such as the status.
type probeResult struct {
	reaction reaction
	detail   string
}

// String returns the text of the reaction, with the detail if there is one.
func (r probeResult) String() string {
	if r.detail == "" {
		return reactionNames[r.reaction].text
	}
	return reactionNames[r.reaction].text + ": " + r.detail
}

// sentBytes reports whether the listener sent bytes that do not count as an answer.
func (r probeResult) sentBytes() bool {
	return r.reaction == answered400 || r.reaction == tlsFailed || r.reaction == answeredOther
}

// probeResults has the result of each probe over one protocol.
type probeResults [probeCount]probeResult

// all reports whether all results have this reaction.
func (r *probeResults) all(reaction reaction) bool {
	return !slices.ContainsFunc(r[:], func(one probeResult) bool { return one.reaction != reaction })
}

// misdirected is the detail of this module's answer to forbidden HTTP/3.
const misdirected = "HTTP 421"

// observation has the results of all probes of a check.
type observation struct {
	// tls reports whether probes were sent over TLS, and not over plain HTTP, and signed whether
	// their headers were signed.
	tls, signed bool
	// probes are the results over the protocol that the user asked for.
	probes probeResults
	// bare is the result of a v2 header without TLVs and signature. It is nil if none has them.
	bare *probeResult
	// others are the results over the other protocol. They are nil unless all probes were
	// closed.
	others *probeResults
	// http3 is the result of a request over HTTP/3. It is nil if none was sent.
	http3 *probeResult
	// http3Behind is the result of a request over HTTP/3 with a header before each datagram. It
	// is nil if none was sent, or if the request without headers was answered.
	http3Behind *probeResult
}

// servesHTTP3Behind reports whether the listener answered HTTP/3 behind headers.
func (o *observation) servesHTTP3Behind() bool {
	return o.http3Behind != nil && o.http3Behind.reaction != unreachable && o.http3Behind.reaction != timedOut
}

// The names of verdicts.
const (
	verdictOn          = "on"
	verdictOff         = "off"
	verdictUnspecified = "unspecified"
	// verdictRefused means that this peer is refused whatever it sends.
	verdictRefused = "refused"
	// verdictUnreachable means that connecting failed.
	verdictUnreachable = "unreachable"
	// verdictOther means that the listener is like a mode, but not exactly.
	verdictOther = "other"
	// verdictUnknown means that the reactions fit none of the others.
	verdictUnknown = "unknown"
)

// verdict is the meaning of an observation. It is the name of a mode only if the listener reacts
// exactly as this module does in that mode.
type verdict struct {
	// Verdict is the name of the verdict.
	Verdict string `json:"verdict"`
	// Closest is the verdict that comes closest, if Verdict is "other".
	Closest string `json:"closest,omitempty"`
	// Meaning explains the verdict to the operator.
	Meaning string `json:"meaning"`
	// Differences are the reactions that are not those of Closest.
	Differences []string `json:"differences,omitempty"`
	// Notes are hints that do not change the verdict.
	Notes []string `json:"notes,omitempty"`
}

// verdictOf returns the verdict on an observation.
func verdictOf(o observation) verdict {
	switch {
	case o.probes.all(unreachable):
		return verdict{
			Verdict: verdictUnreachable,
			Meaning: "Connecting to this address failed. That proves nothing about the listener.",
		}
	case o.probes.all(closed):
		return verdictOfClosed(o)
	}
	served := func(p probe) bool { return o.probes[p].reaction == answered }
	needless, v1, v2 := served(noHeader), served(headerV1), served(headerV2) || served(headerLocal)
	switch {
	case needless && (v1 || v2):
		return verdictOfMode(o, verdictUnspecified, v1, v2)
	case needless:
		return verdictOfMode(o, verdictOff, v1, v2)
	case v1 || v2:
		return verdictOfMode(o, verdictOn, v1, v2)
	default:
		return verdict{
			Verdict: verdictUnknown,
			Meaning: "No probe got an answer that a server of this protocol would give.",
			Notes:   guess(o),
		}
	}
}

// verdictOfClosed returns the verdict on a listener that closed the connection of every probe.
func verdictOfClosed(o observation) verdict {
	asked := func(tls bool) string {
		if tls {
			return "TLS"
		}
		return "plain HTTP"
	}
	v := verdict{
		Verdict: verdictRefused,
		Meaning: "This peer is refused, whatever it sends.",
		Notes: []string{
			"Mode 'on' does this to peers that are not in trusted_proxies. A firewall or another program that accepts connections and closes them looks the same.",
			"A port that forwards connections by server name may refuse other names: use --sni with a name that it serves.",
		},
	}
	if o.bare == nil {
		v.Notes = append(v.Notes, "A listener that requires TLVs or a signature refuses headers without: use --tlv or --sign-key.")
	}
	switch {
	case o.others == nil || o.http3 == nil:
		return verdict{Verdict: verdictUnknown, Meaning: "Not everything was tried."}
	case !o.others.all(closed):
		v = verdict{
			Verdict: verdictOther, Closest: verdictRefused,
			Meaning: "This peer is refused if it speaks " + asked(o.tls) + ", but not if it speaks " + asked(!o.tls) + ".",
		}
		for p, one := range o.others {
			if one.reaction != closed {
				v.Differences = append(v.Differences, "over "+asked(!o.tls)+", "+difference(probe(p), one, closed, false))
			}
		}
		if o.tls {
			v.Notes = []string{"Leave --tls out to find out more."}
		} else {
			v.Notes = []string{"Use --tls to find out more."}
		}
	}
	if o.http3.reaction != unreachable && o.http3.reaction != timedOut {
		v.Verdict, v.Closest, v.Notes = verdictOther, verdictRefused, nil
		v.Meaning = "This peer is refused over TCP, but not over UDP."
		v.Differences = append(v.Differences, fmt.Sprintf("HTTP/3: %s, expected no answer", o.http3))
	} else if o.servesHTTP3Behind() {
		v.Verdict, v.Closest, v.Notes = verdictOther, verdictRefused, nil
		v.Meaning = "This peer is refused over TCP, but over UDP it may send headers, and so claim any address."
		v.Differences = append(v.Differences, fmt.Sprintf("HTTP/3 behind headers: %s, expected no answer", o.http3Behind))
	}
	return v
}

// verdictOfMode compares the reactions with those of a mode. v1 and v2 are the versions of
// headers that the listener accepts.
func verdictOfMode(o observation, mode string, v1, v2 bool) verdict {
	v := verdict{Verdict: mode}
	expected := [probeCount]reaction{closed, closed, closed, closed, closed, closed, closed}
	if mode != verdictOn {
		expected[noHeader] = answered
	}
	if v1 {
		expected[headerV1] = answered
	}
	if v2 {
		expected[headerV2], expected[headerLocal] = answered, answered
	}
	v.addRequired(o, &expected)
	for p, one := range o.probes {
		if one.reaction != expected[p] {
			taken := p == int(twoHeadersV1) && v1 || p == int(twoHeadersV2) && v2
			v.Differences = append(v.Differences, difference(probe(p), one, expected[p], taken))
		}
	}
	if o.http3 != nil {
		v.addHTTP3(*o.http3, mode)
	}
	if o.servesHTTP3Behind() {
		v.addHTTP3Behind(*o.http3Behind, mode)
	}
	if len(v.Differences) > 0 {
		v.Verdict, v.Closest = verdictOther, mode
	}
	v.explain(o, mode)
	switch {
	case v1 && !v2:
		v.Notes = append(v.Notes, "Headers of version 1 are accepted, headers of version 2 are not.")
	case v2 && !v1:
		v.Notes = append(v.Notes, "Headers of version 2 are accepted, headers of version 1 are not.")
	}
	return v
}

// addRequired adds notes about TLVs or a signature that the listener requires, and what it then does
// with headers that cannot have them.
func (v *verdict) addRequired(o observation, expected *[probeCount]reaction) {
	what := "these TLVs"
	if o.signed {
		what = "a signature"
	}
	served := o.probes[headerV2].reaction == answered
	switch {
	case served && o.bare != nil && o.bare.reaction == answered:
		v.Notes = append(v.Notes, "Headers do not need "+what+": a bare one is accepted as well.")
	case served && o.bare != nil && o.bare.reaction == closed:
		v.Notes = append(v.Notes, "Headers need "+what+": a bare one is refused.")
		expected[headerV1] = closed
		if o.probes[headerLocal].reaction == closed {
			expected[headerLocal] = closed
			v.Notes = append(v.Notes, "LOCAL headers are refused: if this peer sends them for health checks, add it to trusted_proxies.")
		}
	case served || o.probes[headerLocal].reaction != answered:
	case o.bare == nil:
		v.Notes = append(v.Notes, "The listener may require TLVs or a signature: use --tlv or --sign-key.")
	default:
		v.Notes = append(v.Notes, "The listener may require other TLVs, or the signature of another key.")
	}
}

// difference describes a reaction that is not the expected one, with a warning if it is
// dangerous. taken reports whether the listener accepts the first of two headers.
func difference(p probe, is probeResult, expected reaction, taken bool) string {
	text := fmt.Sprintf("%s: %s, expected %s", p, is, reactionNames[expected].text)
	switch {
	case is.reaction == answered && p == wrongChecksum:
		text += " (the checksum is not verified)"
	case is.reaction == answered && taken:
		text += " (a client behind a load balancer can claim any address with a second header)"
	case is.sentBytes() && taken:
		text += " (the second header reaches the server as a request)"
	}
	return text
}

// addHTTP3 adds a difference or a note for the result of HTTP/3 without headers.
func (v *verdict) addHTTP3(r probeResult, mode string) {
	switch {
	case r.reaction == unreachable || r.reaction == timedOut:
	case mode == verdictOn && r.reaction == answered && r.detail == misdirected:
		v.Notes = append(v.Notes, "HTTP/3 is forbidden (421), but its port is still open: restart Caddy to close it.")
	case mode == verdictOn:
		v.Differences = append(v.Differences, fmt.Sprintf("HTTP/3: %s, expected no answer (it bypasses the header)", r))
	default:
		v.Notes = append(v.Notes, "HTTP/3 is served as well, without a header.")
	}
}

// addHTTP3Behind adds a difference or a note for HTTP/3 that is answered only if datagrams begin
// with headers.
func (v *verdict) addHTTP3Behind(r probeResult, mode string) {
	if mode == verdictOff {
		v.Differences = append(v.Differences, fmt.Sprintf("HTTP/3 behind headers: %s, expected no answer (this peer may claim any address)", r))
		return
	}
	v.Notes = append(v.Notes, "HTTP/3 is served if a header of version 2 stands before each datagram.")
}

// explain sets the meaning of a mode, or of a verdict close to it, and adds notes.
func (v *verdict) explain(o observation, mode string) {
	exact := v.Verdict == mode
	switch {
	case mode == verdictOn && exact:
		v.Meaning = "A connection must begin with a header. This peer is trusted: it may send one, and so claim any address."
	case mode == verdictOn:
		v.Meaning = "A connection must begin with a header, and this peer may send one. But this is not exactly mode 'on'."
	case mode == verdictUnspecified && exact:
		v.Meaning = "A connection may begin with a header or not. This peer may send one, and so claim any address."
		v.Notes = append(v.Notes, "Mode 'unspecified' is for tests only: set 'on' or 'off'.")
	case mode == verdictUnspecified:
		v.Meaning = "A connection may begin with a header or not, and this peer may send one. But this is not exactly mode 'unspecified'."
		v.Notes = append(v.Notes, "This check cannot tell whether the address in a header is used or ignored.")
	case exact:
		v.Meaning = "A connection must not begin with a header. This peer is served without one."
		v.Notes = append(v.Notes,
			"Mode 'unspecified' with trusted_proxies that this peer is not in looks the same, and so does a load balancer in front that sends a header of its own.",
			"A server without PROXY protocol support looks the same if it closes the connection when something other than a request arrives. Many do so over TLS.")
	case slices.ContainsFunc(o.probes[headerV1:], probeResult.sentBytes):
		v.Meaning = "This listener does not support the PROXY protocol, or answers when it refuses a header: it treats a header as a bad request. This is not mode 'off', which closes the connection without a byte."
	default:
		v.Meaning = "A connection without a header is served, and one with a header is not. But this is not exactly mode 'off'."
	}
}

// guess returns notes about what to try when no probe was answered.
func guess(o observation) []string {
	has := func(reaction reaction) bool {
		return slices.ContainsFunc(o.probes[:], func(one probeResult) bool { return one.reaction == reaction })
	}
	var notes []string
	if !o.tls && (has(answered400) || has(answeredOther)) {
		notes = append(notes, "If the port speaks TLS, use --tls. Otherwise the server may expect another Host, which you set with --sni, or it may not be an HTTP server.")
	}
	if o.tls && (has(answered400) || has(answeredOther)) {
		notes = append(notes, "The port may not speak TLS: leave --tls out.")
	}
	if has(tlsFailed) {
		notes = append(notes, "Use --sni with a name that the server has a certificate for.")
	}
	if has(timedOut) {
		notes = append(notes, "The server may be slow: try a longer --timeout.")
	}
	if has(unreachable) {
		notes = append(notes, "Not every connection was accepted: the server or a firewall may limit them.")
	}
	return notes
}
