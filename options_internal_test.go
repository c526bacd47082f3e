package proxyprotocol

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

func TestParseRange_AcceptsWhatCaddyDoes(t *testing.T) {
	var accepted, refused int
	for _, s := range []string{
		"10.0.0.0/8", "10.1.2.3/8", "10.1.2.3", "0.0.0.0/0", "255.255.255.255/32", "0.0.0.0",
		"2001:db8::/32", "2001:db8:1::1/32", "2001:DB8::A", "::", "::/0", "::1/128", "1:2:3:4:5:6:7:8",
		"::ffff:10.1.2.3", "::ffff:10.1.2.3/104", "::ffff:0:0/96", "::ffff:a01:203", "::FFFF:10.1.2.3/128", "64:ff9b::10.0.0.1",
		"fe80::1%eth0", "fe80::%eth0/64", "fe80::1%", "::ffff:1.2.3.4%e0", "%eth0", "10.0.0.1%eth0",
		" 10.0.0.1", "10.0.0.1 ", "10.0.0.0 /8", "10.0.0.0/ 8", "10.0.0.0/8 ", "\t::1", "10.0.0.1\n", "10.0.0.1,10.0.0.2",
		"010.0.0.1", "10.0.0.01", "10.0.0.0/08", "10.0.0.0/00", "0x0a.0.0.1", "00001::", "0001::", "2001:db8::/032",
		"", "/", "/8", "10.0.0.0/", "10.0.0/8", "10/8", "10.0.0", "10.0.0.0.0", "256.0.0.1", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8",
		"10.0.0.0/8/8", "2001:db8::/129", "2001:db8:::1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "[::1]", "[::1]/128", "10.0.0.1:80",
		"example.com", "localhost", "private_ranges", "10.0.0.0-10.0.0.9", "10.0.0.*", "10.0.0.0/255.0.0.0", "unix", "\x00", "１0.0.0.1",
	} {
		want, wantErr := caddyhttp.CIDRExpressionToPrefix(s)
		got, err := policy.ParseRange(s)
		if wantErr != nil || strings.Contains(s, "%") { // Caddy drops zones
			refused++
			assert.Error(t, err, "%q", s)
			continue
		}
		accepted++
		assert.NoError(t, err, "%q", s)
		assert.Equal(t, policy.Normalize(want), got, "%q", s)
	}
	assert.NotZero(t, accepted)
	assert.NotZero(t, refused)
}
