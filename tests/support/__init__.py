"""What the tests share: real servers, a faulty network, counters, and patience with a limit."""
