-- What a breaker's keys hold, as a table for the rules, and back.
--
-- KEYS[1] state           closed, open or half_open
-- KEYS[2] failure_count   consecutive failures
-- KEYS[3] last_failure    ISO 8601, UTC
-- KEYS[4] details         hash with all the rest; the probes and the window are one field each
--
-- ARGV[1 .. 12] are the rules of the caller; see shared.py. Every script of the
-- breaker reads the whole state, applies one or several rules and writes it back, so each has to
-- be atomic: two processes would otherwise both see the last free probe.
local NUMBERS = {
  'since', 'period', 'open_until', 'openings', 'opened', 'forced_until', 'token', 'successes',
  'last_failure', 'closed_us', 'open_us', 'half_open_us',
}

local function breaker_config()
  local c = {}
  for i, name in ipairs({
    'failures', 'failure_rate', 'slow_rate', 'bucket_us', 'buckets', 'minimum_calls', 'open_us',
    'cap_us', 'probes', 'successes', 'lease_us', 'jitter',
  }) do
    c[name] = tonumber(ARGV[i])
  end
  return c
end

local function breaker_load(now)
  local stored, fields = {}, server.call('HGETALL', KEYS[4])
  for i = 1, #fields, 2 do stored[fields[i]] = fields[i + 1] end
  local b = {reason = stored.reason or '', forced = stored.forced or '', probes = {}, window = {}}
  for _, name in ipairs(NUMBERS) do b[name] = tonumber(stored[name]) or 0 end
  for token, lease_end in (stored.probes or ''):gmatch('(%d+)=(%d+)') do
    b.probes[tonumber(token)] = tonumber(lease_end)
  end
  for n, calls, failures, slow in (stored.window or ''):gmatch('(%d+)=(%d+)/(%d+)/(%d+)') do
    b.window[tonumber(n)] = {tonumber(calls), tonumber(failures), tonumber(slow)}
  end
  local state = server.call('GET', KEYS[1])
  b.state = (state == 'open' or state == 'half_open') and state or 'closed'
  b.failures = tonumber(server.call('GET', KEYS[2]) or 0) or 0
  if b.since == 0 then b.since, b.changed = now, true end
  return b
end

-- The date of a number of days since 1970, in the civil calendar: years are counted from March, so
-- that the leap day is their last.
local function breaker_date(days)
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day = shifted - era * 146097
  local year = math.floor(
    (day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365
  )
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  return string.format('%04d-%02d-%02d', year + era * 400 + (month <= 2 and 1 or 0), month, day)
end

local function breaker_time(us)
  local seconds = math.floor(us / 1000000)
  local clock = seconds % 86400
  return breaker_date(math.floor(seconds / 86400)) .. string.format(
    'T%02d:%02d:%02d.%06dZ',
    math.floor(clock / 3600), math.floor(clock % 3600 / 60), clock % 60, us % 1000000
  )
end

local function breaker_save(b)
  if not b.changed then return end
  local fields = {'reason', b.reason, 'forced', b.forced}
  for _, name in ipairs(NUMBERS) do
    fields[#fields + 1] = name
    -- As text a number would be rounded to 14 digits.
    fields[#fields + 1] = string.format('%.0f', b[name])
  end
  local probes, window = {}, {}
  for token, lease_end in pairs(b.probes) do
    probes[#probes + 1] = string.format('%.0f=%.0f', token, lease_end)
  end
  for n, s in pairs(b.window) do
    window[#window + 1] = string.format('%.0f=%.0f/%.0f/%.0f', n, s[1], s[2], s[3])
  end
  fields[#fields + 1], fields[#fields + 2] = 'probes', table.concat(probes, ' ')
  fields[#fields + 1], fields[#fields + 2] = 'window', table.concat(window, ' ')
  server.call('HSET', KEYS[4], unpack(fields))
  server.call('SET', KEYS[1], b.state)
  server.call('SET', KEYS[2], string.format('%.0f', b.failures))
  if b.last_failure > 0 then server.call('SET', KEYS[3], breaker_time(b.last_failure)) end
end
