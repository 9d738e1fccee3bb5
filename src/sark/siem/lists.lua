-- Events in Lua: lists of them to and from keys, and the account. All loops are bounded by what the
-- callers read, at most some thousand events; `unpack` is given at most 1,000 of them at a time.
--
-- siem_push(key, events, first, last)     append events to a list
-- siem_unshift(key, events, first, last)  put events before a list, in their order
-- siem_size(events, first, last)          bytes of events
-- siem_book(account, name, events, bytes) add to one line of the account, in entries and bytes
-- siem_adopt(account)                     complete an account from before bytes were accepted: events
--                                         could not leave the queue then but by being purged
local function siem_push(key, events, first, last)
  for from = first, last, 1000 do
    server.call('RPUSH', key, unpack(events, from, math.min(from + 999, last)))
  end
end

local function siem_unshift(key, events, first, last)
  local reversed = {}
  for i = last, first, -1 do reversed[#reversed + 1] = events[i] end
  for from = 1, #reversed, 1000 do
    server.call('LPUSH', key, unpack(reversed, from, math.min(from + 999, #reversed)))
  end
end

local function siem_size(events, first, last)
  local bytes = 0
  for i = first, last do bytes = bytes + #events[i] end
  return bytes
end

local function siem_adopt(account)
  local held = server.call('HMGET', account, 'accepted', 'accepted_bytes', 'queued_bytes')
  if held[1] and not held[2] then
    server.call('HSET', account, 'accepted_bytes', held[3] or 0)
  end
end

local function siem_book(account, name, events, bytes)
  if events == 0 then return end
  server.call('HINCRBY', account, name, events)
  server.call('HINCRBY', account, name .. '_bytes', bytes)
end
