package datagram

import (
	"net"
	"reflect"
)

// KeyOf returns the key of these by which Caddy opened a socket, or an empty text if it is not
// known. Caddy has no method that returns the key, but counts the uses of a socket by it, and so
// keeps it in an unexported field. A socket without such a field has the only key, if there is
// only one.
func KeyOf(socket net.PacketConn, keys map[string]bool) string {
	for below := socket; below != nil; below = socketBelow(below) {
		for _, field := range [...]string{"lnKey", "key"} {
			if key := stringField(below, field); keys[key] {
				return key
			}
		}
	}
	if len(keys) == 1 {
		for only := range keys {
			return only
		}
	}
	return ""
}

// socketBelow returns the socket below a wrapper, or nil if there is none.
func socketBelow(socket net.PacketConn) net.PacketConn {
	wrapper, ok := socket.(interface{ Unwrap() net.PacketConn })
	if !ok {
		return nil
	}
	return wrapper.Unwrap()
}

// stringField returns the value of a field, exported or not, or an empty text if there is no
// such field.
func stringField(of any, name string) (value string) {
	defer func() { _ = recover() }() // an embedded pointer on the way may be nil
	v := reflect.Indirect(reflect.ValueOf(of))
	if v.Kind() != reflect.Struct {
		return ""
	}
	if field := v.FieldByName(name); field.IsValid() && field.Kind() == reflect.String {
		return field.String()
	}
	return ""
}
