package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// find returns the path of a program in PATH or in /usr/sbin, which the PATH of ordinary users does
// not have.
func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		if path, sbin := exec.LookPath("/usr/sbin/" + program); sbin == nil {
			return path, nil
		}
	}
	return path, err
}

// nginxCommand returns the command that runs nginx. Like Caddy, nginx answers "ok" and takes the
// client's address from the header.
func nginxCommand(s *server, dir, certificate string, connections int) (*exec.Cmd, error) {
	config := filepath.Join(dir, "nginx.conf")
	err := os.WriteFile(config, fmt.Appendf(nil, `
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes auto;
worker_rlimit_nofile %[1]d;
events {
	worker_connections %[1]d;
}
http {
	access_log off;
	keepalive_requests 1000000000;
	real_ip_header proxy_protocol;
	set_real_ip_from 127.0.0.0/8;
	server {
		listen %[2]s proxy_protocol;
		listen %[3]s ssl proxy_protocol;
		ssl_certificate %[4]s;
		ssl_certificate_key %[4]s;
		ssl_protocols TLSv1.3;
		location / {
			return 200 ok;
		}
	}
}
`, connections, s.plain, s.tls, certificate), 0o600)
	return guarded("nginx", "-e", "stderr", "-p", dir, "-c", config), err
}

// haproxyCommand returns the command that runs HAProxy. HAProxy answers "ok" by itself.
func haproxyCommand(s *server, dir, certificate string, connections int) (*exec.Cmd, error) {
	config := filepath.Join(dir, "haproxy.cfg")
	var logTo, logAs string
	if s.log != "" {
		logTo, logAs = "log stderr format raw local0", "log global"
	}
	err := os.WriteFile(config, fmt.Appendf(nil, `
global
	maxconn %d
	%s
defaults
	%s
	mode http
	timeout connect 10s
	timeout client 10m
	timeout server 10m
frontend bench
	bind %s accept-proxy
	bind %s accept-proxy ssl crt %s
	http-request return status 200 content-type text/plain string ok
`, connections, logTo, logAs, s.plain, s.tls, certificate), 0o600)
	return guarded("haproxy", "-db", "-f", config), err
}

// guarded returns a command that runs a program and, like serveCaddy, prints a line for each line
// of its standard input. When standard input ends, it stops the program.
func guarded(program string, args ...string) *exec.Cmd {
	path, _ := find(program)
	return exec.Command("sh", append([]string{"-c", `"$@" & while read -r _; do echo; done; kill $!; wait`, "sh", path}, args...)...)
}
