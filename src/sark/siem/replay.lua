-- Move the oldest dead letters back to the tail of the queue, as far as it has room.
--
-- KEYS[1]  queue, KEYS[2] dead letters, KEYS[3] account
-- ARGV[1]  most to move, ARGV[2] most events of the queue, ARGV[3] most bytes
--
-- Returns how many were moved. Atomic because an event must be in exactly one of the lists.
local room, left = siem_room(KEYS[1], KEYS[3], tonumber(ARGV[2]), tonumber(ARGV[3]))
local events, bytes = {}, 0
for i, entry in ipairs(server.call('LRANGE', KEYS[2], 0, tonumber(ARGV[1]) - 1)) do
  local event = siem_letter_event(entry)
  if i > room or bytes + #event > left then break end
  events[i], bytes = event, bytes + #event
end
if #events == 0 then return 0 end
siem_push(KEYS[1], events, 1, #events)
server.call('LPOP', KEYS[2], #events)
server.call('HINCRBY', KEYS[3], 'queued_bytes', bytes)
server.call('HINCRBY', KEYS[3], 'failed_bytes', -bytes)
return #events
