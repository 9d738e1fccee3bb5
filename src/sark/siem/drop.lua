-- siem_drop(queue, account, max_events, max_bytes, events, first, last): drop the oldest events of a
-- queue until there is room for others, and book them as dropped.
--
-- Arguments as in siem_append. At most 4,000 are dropped in one call, and none for an event that
-- would not fit in an empty queue.
--
-- Returns how many were dropped. Atomic with the append that follows, which needs the room.
local function siem_drop(queue, account, max_events, max_bytes, events, first, last)
  siem_adopt(account)
  local room, left = siem_room(queue, account, max_events, max_bytes)
  local count, bytes = 0, 0
  for i = first, last do
    if count == max_events or bytes + #events[i] > max_bytes then break end
    count, bytes = count + 1, bytes + #events[i]
  end
  local over, over_bytes = count - room, bytes - left
  local dropped, dropped_bytes = 0, 0
  while dropped < 4000 and (dropped < over or dropped_bytes < over_bytes) do
    local oldest = server.call('LPOP', queue)
    if not oldest then break end
    dropped, dropped_bytes = dropped + 1, dropped_bytes + #oldest
  end
  siem_book(account, 'dropped', dropped, dropped_bytes)
  if dropped > 0 then server.call('HINCRBY', account, 'queued_bytes', -dropped_bytes) end
  return dropped
end
