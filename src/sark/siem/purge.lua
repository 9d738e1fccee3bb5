-- Drop the oldest events of the queue and book them as purged.
--
-- KEYS[1]  queue
-- KEYS[2]  account
-- ARGV[1]  most events to drop in this call
--
-- Returns how many were dropped. Atomic because the account must agree with the queue.
local events = server.call('LPOP', KEYS[1], ARGV[1])
if not events then return 0 end
local bytes = 0
for _, event in ipairs(events) do bytes = bytes + #event end
server.call('HINCRBY', KEYS[2], 'purged', #events)
server.call('HINCRBY', KEYS[2], 'queued_bytes', -bytes)
return #events
