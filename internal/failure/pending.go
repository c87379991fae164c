package failure

// Pending says what it means that a phase has not ended yet, and what to do about
// it: the hint for an attempt that still runs. proxied says that the address is
// behind a proxy, secure that a TLS handshake went well. It is empty for a phase
// that it does not know.
func Pending(phase Phase, proxied, secure bool) string {
	switch phase {
	case Resolve:
		return "the name servers have not answered yet: check this machine's DNS configuration, or the server in the target's authority"
	case Dial:
		if proxied {
			return "the proxy does not answer: is its address right, is it running?"
		}
		return "nothing has answered yet: the host may be down, or a firewall drops the packets"
	case Proxy:
		return "the proxy took the connection and has not answered yet: it may not reach the target, or be no proxy"
	case TLS:
		return "the server took the connection and has not finished the TLS handshake yet: it may not speak TLS, be overloaded, or be behind a path that loses large packets (MTU)"
	case HTTP2:
		if secure {
			return "the server has sent no SETTINGS since the TLS handshake: it may not speak HTTP/2, or be overloaded"
		}
		return "the server took the connection and has sent no SETTINGS yet: it may require TLS, not speak HTTP/2, or be overloaded"
	case Check:
		return "the program's check of the connection (WithConnectCheck) has not returned yet"
	case Health:
		return "the server's health service has not answered yet"
	}
	return ""
}
