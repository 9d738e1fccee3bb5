-- Drop the oldest events of the queue, or the oldest dead letters, and book them as purged.
--
-- KEYS[1]  queue or dead letters, KEYS[2] account
-- ARGV[1]  most events to drop in this call
-- ARGV[2]  queued or failed: which of the two it is
--
-- Returns how many were dropped. Atomic because the account must agree with the lists.
siem_adopt(KEYS[2])
local entries = server.call('LPOP', KEYS[1], ARGV[1])
if not entries then return 0 end
if ARGV[2] == 'failed' then
  for i, entry in ipairs(entries) do entries[i] = siem_letter_event(entry) end
end
local bytes = siem_size(entries, 1, #entries)
siem_book(KEYS[2], 'purged', #entries, bytes)
server.call('HINCRBY', KEYS[2], ARGV[2] .. '_bytes', -bytes)
return #entries
