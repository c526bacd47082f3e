package conninfo

import (
	"encoding/json"

	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// LogObject is all that is known of a connection, as an object in a log line or as JSON in text.
// It has only the fields that the header had.
type LogObject struct{ Info *Info }

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (o *LogObject) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	i := o.Info
	enc.AddString("mode", i.Mode.String())
	enc.AddString("peer", AddrString(i.Peer))
	enc.AddBool("present", i.HasHeader())
	if !i.HasHeader() {
		return nil
	}
	enc.AddUint8("version", i.Header.Version())
	for _, field := range []struct{ key, value string }{
		{"command", CommandName(i.Header)},
		{"transport", TransportName(i.Header)},
		{"source", AddrPortString(i.Header.Source())},
		{"destination", AddrPortString(i.Header.Destination())},
	} {
		if field.value != "" {
			enc.AddString(field.key, field.value)
		}
	}
	enc.AddBool("port_zero", i.Marked())
	if i.method != auth.None {
		enc.AddString("authenticated", i.method.String())
	}
	named := i.TLVs()
	if len(named.Shown) == 0 {
		return nil
	}
	return enc.AddObject("tlv", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		for _, name := range named.Shown {
			enc.AddString(name, escape.Text(named.Values[name]))
		}
		return nil
	}))
}

// MarshalJSON implements json.Marshaler.
func (o *LogObject) MarshalJSON() ([]byte, error) {
	enc := zapcore.NewMapObjectEncoder()
	if err := o.MarshalLogObject(enc); err != nil {
		return nil, err
	}
	return json.Marshal(enc.Fields)
}

// String implements fmt.Stringer, for text with the placeholder in it.
func (o *LogObject) String() string {
	text, err := o.MarshalJSON()
	if err != nil {
		return ""
	}
	return string(text)
}

// CommandName returns the command of a version 2 header, LOCAL or PROXY. A version 1 header has
// none.
func CommandName(h wire.Header) string {
	switch {
	case h.Version() != 2:
		return ""
	case h.Command() == wire.Local:
		return "LOCAL"
	default:
		return "PROXY"
	}
}

// TransportName returns the transport and address family of a header, as a version 1 header
// names them: TCP4, TCP6 or UNKNOWN, and in the same way UDP4, UDP6, UNIX_STREAM and UNIX_DGRAM.
func TransportName(h wire.Header) string {
	switch {
	case h.Version() == 0 || h.Command() == wire.Local:
		return ""
	case h.Family() == wire.FamilyUnspec || h.Transport() == wire.TransportUnspec:
		return "UNKNOWN"
	}
	stream := h.Transport() == wire.Stream
	switch {
	case h.Family() == wire.Unix && stream:
		return "UNIX_STREAM"
	case h.Family() == wire.Unix:
		return "UNIX_DGRAM"
	case h.Family() == wire.IPv4 && stream:
		return "TCP4"
	case h.Family() == wire.IPv4:
		return "UDP4"
	case stream:
		return "TCP6"
	default:
		return "UDP6"
	}
}
