package policy

import (
	"fmt"

	"github.com/gaissmai/bart"
)

// UncoveredOn compares the ranges of two listeners whose mode is On, one for TCP and one for UDP.
// Either may be nil. If UDP has another mode than On where TCP has On, it says where.
func UncoveredOn(tcp, udp *bart.Table[Mode]) (difference string) {
	if udp == nil {
		return ""
	}
	if tcp == nil {
		tcp = new(bart.Table[Mode])
	}
	for prefix, mode := range udp.All() {
		if same, ok := tcp.Get(prefix); mode != On && (!ok || same != mode) {
			return fmt.Sprintf("mode '%s' for %s, but the listener wrapper does not", mode, prefix)
		}
	}
	for prefix, mode := range tcp.All() {
		if other, ok := udp.LookupPrefix(prefix); mode == On && ok && other != On {
			return fmt.Sprintf("mode '%s' for %s, but the listener wrapper has mode 'on'", other, prefix)
		}
	}
	return ""
}
