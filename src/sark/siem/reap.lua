-- End one worker's lease if it has expired: its events return to the head of the queue, in order.
-- What kills its workers does so before they can renew; after that, something else has ended them,
-- so the events have not outlived the lease.
--
-- KEYS     as in settle
-- ARGV[1]  worker, ARGV[2] token
-- ARGV[3]  most dead letters, ARGV[4] most bytes of them
-- ARGV[5]  how many leases an event may outlive before it becomes a dead letter
-- ARGV[6]  head of the dead letters, ARGV[7] seconds that a count of outlived leases is kept
--
-- Returns {returned, dead letters}; {} when the lease is another one now or has not expired.
-- Atomic because its worker may renew it, or end it, at any moment.
local lease = siem_lease(KEYS[3], ARGV[1])
if not lease or lease.token ~= ARGV[2] or lease.expiry > siem_now_ms() then return {} end
local events = server.call('LRANGE', KEYS[6], 0, -1)
local back, dead, heads, place = {}, {}, {}, {}
for i, event in ipairs(lease.renewed == 0 and events or {}) do
  local digest = siem_digest(event)
  if server.call('HINCRBY', KEYS[5], digest, 1) >= tonumber(ARGV[5]) then
    dead[#dead + 1], heads[#heads + 1], place[i] = event, ARGV[6], #dead + 1
  end
end
server.call('EXPIRE', KEYS[5], ARGV[7])
local buried = siem_bury(KEYS[2], KEYS[4], tonumber(ARGV[3]), tonumber(ARGV[4]), heads, dead)
for i, event in ipairs(events) do
  if not place[i] or place[i] > buried then back[#back + 1] = event end
end
for i = #dead, buried + 1, -1 do dead[i] = nil end
siem_forgive(KEYS[5], dead)
siem_unshift(KEYS[1], back, 1, #back)
siem_book(KEYS[4], 'inflight', -lease.events, -lease.bytes)
if #back > 0 then server.call('HINCRBY', KEYS[4], 'queued_bytes', siem_size(back, 1, #back)) end
server.call('UNLINK', KEYS[6])
server.call('HDEL', KEYS[3], ARGV[1])
return {#back, buried}
