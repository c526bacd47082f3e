package proxyprotocol

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"unsafe"
	"weak"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// requestFrom is a request of a connection that was accepted from an address.
func requestFrom(accepted *quicAddr, remote string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = remote
	return r.WithContext(context.WithValue(r.Context(), http3.RemoteAddrContextKey, accepted))
}

// newQUICAddr is an address that gave out its text as often as for a connection.
func newQUICAddr(text string) *quicAddr {
	rules, _ := connRules(On)
	a := &quicAddr{text: strings.Clone(text), rules: rules}
	_, _ = a.String(), a.String()
	return a
}

func TestRequestHasTheAddressThatItsTextIsOf(t *testing.T) {
	accepted, other, same := newQUICAddr("203.0.113.7:0"), newQUICAddr("198.51.100.9:7"), newQUICAddr("203.0.113.7:0")
	assert.Same(t, accepted, requestQUICAddr(requestFrom(accepted, accepted.text)))
	assert.Same(t, other, requestQUICAddr(requestFrom(accepted, other.text)), "it has migrated")
	assert.Same(t, same, requestQUICAddr(requestFrom(accepted, same.text)), "to one that looks the same")
	assert.Nil(t, requestQUICAddr(requestFrom(accepted, strings.Clone(accepted.text))), "the text is not that of an address")
	assert.Nil(t, requestQUICAddr(requestFrom(accepted, accepted.text[:4])), "nor its beginning")
	assert.Nil(t, requestQUICAddr(requestFrom(accepted, "")))

	other.marked = true
	assert.Nil(t, requestQUICAddr(requestFrom(accepted, other.text)))
	other.marked, other.rules = false, nil
	assert.Nil(t, requestQUICAddr(requestFrom(accepted, other.text)))
	runtime.KeepAlive([]*quicAddr{accepted, other, same})
}

// QUIC may hand out what it was given without asking for the text again.
func TestRequestOfTheAcceptedAddressNeedsNoSearch(t *testing.T) {
	rules, _ := connRules(On)
	accepted := &quicAddr{text: strings.Clone("203.0.113.7:1"), rules: rules}
	assert.Same(t, accepted, requestQUICAddr(requestFrom(accepted, accepted.text)))
}

// Nobody judged its datagrams.
func TestConnectionIsNotAcceptedWithoutRules(t *testing.T) {
	a := newQUICAddr("203.0.113.7:1")
	r := requestFrom(a, a.text)
	assert.Same(t, a, acceptedFrom(r))
	a.rules = nil
	assert.Nil(t, acceptedFrom(r))
	assert.Nil(t, requestQUICAddr(r))
	assert.Nil(t, acceptedFrom(httptest.NewRequest(http.MethodGet, "/", nil)))
}

// QUIC asks once for the text of somebody to whom it sends a token, and forgets him.
func TestAddressIsKnownFromTheSecondTimeItIsAskedFor(t *testing.T) {
	a := &quicAddr{text: strings.Clone("203.0.113.7:1")}
	for _, want := range []*quicAddr{nil, a, a, a} {
		assert.Equal(t, a.text, a.String())
		assert.Same(t, want, spoken.find(a.text))
	}
}

func TestAddressIsForgottenWithItsLastUser(t *testing.T) {
	text := newQUICAddr("203.0.113.7:1").text
	known := func() bool { _, ok := spoken.addrs.Load(unsafe.StringData(text)); return ok }
	eventually(t, func() bool { runtime.GC(); return !known() }, "the address is kept")
	assert.Nil(t, spoken.find(text))

	// Until that is done, it leads nowhere.
	s := new(spokenAddrs)
	gone := weak.Make(&quicAddr{text: text})
	s.addrs.Store(unsafe.StringData(text), gone)
	eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, "the address is kept")
	require.Nil(t, s.find(text))
	runtime.KeepAlive(text)
}
