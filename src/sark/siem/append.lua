-- siem_room(queue, account, max_events, max_bytes): events and bytes for which a queue has room.
-- What is in flight counts as held, so that there is always room for it to return.
--
-- siem_append(queue, account, max_events, max_bytes, line, events, first, last): append events to a
-- queue while there is room, in order, and book them.
--
-- queue, account        key names, declared by the caller
-- line                  of the account: accepted, or duplicates
-- events[first .. last] JSON events, some thousand at most
--
-- Returns how many were taken: the first so many.
--
-- Atomic because the bound must hold whoever else appends, and the account must agree with the
-- queue at every moment.
local function siem_room(queue, account, max_events, max_bytes)
  local held = server.call('HMGET', account, 'inflight', 'queued_bytes', 'inflight_bytes')
  return max_events - server.call('LLEN', queue) - tonumber(held[1] or 0),
    max_bytes - tonumber(held[2] or 0) - tonumber(held[3] or 0)
end

local function siem_append(queue, account, max_events, max_bytes, line, events, first, last)
  if line ~= 'accepted' then siem_adopt(account) end
  local line_bytes = line .. '_bytes'
  local held = server.call(
    'HMGET', account, 'inflight', 'queued_bytes', 'inflight_bytes', line, line_bytes)
  local queued = tonumber(held[2] or 0)
  local room = max_events - server.call('LLEN', queue) - (held[1] or 0)
  local left = max_bytes - queued - (held[3] or 0)
  local taken, bytes = 0, 0
  for i = first, last do
    local size = #events[i]
    if taken >= room or bytes + size > left then break end
    taken, bytes = taken + 1, bytes + size
  end
  if taken > 0 then
    siem_push(queue, events, first, first + taken - 1)
    -- One command instead of three; nobody else writes while a script runs. The server spells
    -- numbers with 17 digits, so they stay exact.
    -- Accepted without bytes: what siem_adopt completes, here without a command of its own.
    local booked = held[5] or (held[4] and line == 'accepted' and held[2]) or 0
    server.call('HSET', account, 'queued_bytes', queued + bytes, line, (held[4] or 0) + taken,
      line_bytes, booked + bytes)
  end
  return taken
end
