// Package interop tests this module behind load balancers of other projects: see README.md. The
// tests have the build tag interop.
package interop
