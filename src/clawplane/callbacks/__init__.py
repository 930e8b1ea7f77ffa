"""Tell the outside that something has ended: chat channels, OpenClaw gateways, signed webhooks."""
