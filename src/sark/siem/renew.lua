-- Let a lease last for its full time from now on.
--
-- KEYS[1]  leases
-- ARGV[1]  worker, ARGV[2] token, ARGV[3] milliseconds of the lease
--
-- Returns 1, or 0 when the token is not the current one. Atomic because a lease that was reaped
-- meanwhile must stay so.
local lease = siem_lease(KEYS[1], ARGV[1])
if not lease or lease.token ~= ARGV[2] then return 0 end
lease.expiry, lease.renewed = siem_now_ms() + tonumber(ARGV[3]), 1
siem_write_lease(KEYS[1], ARGV[1], lease)
return 1
