package request

import (
	"net"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Values returns the values of text with placeholders. The value of a placeholder that stands
// alone can be a list, like that of all IP addresses of a client certificate.
func Values(repl *caddy.Replacer, s string) []string {
	key, ok := strings.CutPrefix(s, "{")
	if key, alone := strings.CutSuffix(key, "}"); ok && alone && !strings.ContainsAny(key, "{}") {
		value, _ := repl.Get(key)
		return textsOf(value)
	}
	return []string{repl.ReplaceAll(s, "")}
}

// textsOf returns the value of a placeholder as text. That of the IP addresses of a client
// certificate is a list.
func textsOf(value any) []string {
	switch value := value.(type) {
	case []net.IP:
		var texts []string
		for _, ip := range value {
			texts = append(texts, ip.String())
		}
		return texts
	case TextList:
		return value
	case []string:
		return value
	}
	return []string{caddy.ToString(value)}
}
