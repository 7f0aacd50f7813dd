//go:build !race

package main

// churnArgs are those of everyone: what is promised is promised for these.
var churnArgs []string
