// Package attacktest tests a running Caddy under attack and under load, and what silent connections
// and large bodies cost it. It has a process of its own, beside those of the module's tests.
package attacktest

import _ "github.com/portzero/caddy-proxy-protocol" // the module
