// Package interop tests this module behind load balancers that others wrote: see README.md.
// The tests have the build tag interop.
package interop
