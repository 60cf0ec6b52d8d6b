"""Who runs what, where: the gateway, the durable queue, placement and the dispatcher. The highest package."""
