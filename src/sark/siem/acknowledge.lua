-- Book all events of a lease as delivered and end it.
--
-- KEYS[1]  leases, KEYS[2] account, KEYS[3] expiries, KEYS[4] the worker's events in flight
-- ARGV[1]  worker, ARGV[2] token
--
-- Returns 1, or 0 when the token is not the current one. Atomic because a stale worker must change
-- nothing, and the account must agree with the lists.
local lease = siem_lease(KEYS[1], ARGV[1])
if not lease or lease.token ~= ARGV[2] then return 0 end
if server.call('EXISTS', KEYS[3]) == 1 then
  siem_forgive(KEYS[3], server.call('LRANGE', KEYS[4], 0, -1))
end
server.call('UNLINK', KEYS[4])
server.call('HDEL', KEYS[1], ARGV[1])
siem_book(KEYS[2], 'delivered', lease.events, lease.bytes)
siem_book(KEYS[2], 'inflight', -lease.events, -lease.bytes)
return 1
