-- Read a sink's account and what agrees with it, at one moment.
--
-- KEYS[1]  queue, KEYS[2] dead letters, KEYS[3] leases, KEYS[4] account
--
-- Returns {server's microseconds, queued, dead letters, account as a flat list, oldest event or '',
-- records of the leases}. Atomic because the account only adds up at one moment.
return {
  string.format('%.0f', now_us()),
  server.call('LLEN', KEYS[1]),
  server.call('LLEN', KEYS[2]),
  server.call('HGETALL', KEYS[4]),
  server.call('LINDEX', KEYS[1], 0) or '',
  server.call('HVALS', KEYS[3]),
}
