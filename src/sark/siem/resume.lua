-- Take over the lease that a worker of this name holds, under a new token.
--
-- KEYS[1]  leases, KEYS[2] account, KEYS[3] the worker's events in flight
-- ARGV[1]  worker, ARGV[2] milliseconds of the lease
--
-- Returns {token, events}, or {} when it holds none. Atomic because of two who take it over only
-- the later one may go on.
local lease = siem_lease(KEYS[1], ARGV[1])
if not lease then return {} end
lease.token = string.format('%.0f', server.call('HINCRBY', KEYS[2], 'token', 1))
lease.expiry = siem_now_ms() + tonumber(ARGV[2])
siem_write_lease(KEYS[1], ARGV[1], lease)
return {lease.token, server.call('LRANGE', KEYS[3], 0, -1)}
