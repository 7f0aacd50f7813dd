//go:build race

package main

// churnArgs leave room for all that the slower reader has not read yet.
var churnArgs = []string{"--buffer", "134217728"}
