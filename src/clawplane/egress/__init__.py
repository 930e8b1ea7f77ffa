"""Let isolated code reach the outside through one SOCKS5 and HTTP proxy that judges, counts and can be cut."""
