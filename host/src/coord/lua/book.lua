-- GCRA over several keys. ARGV, four a key: interval, tolerance, wanted, ahead (microseconds).
-- Returns, two a key: granted, and how far beyond now the arrival time is.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local answer = {}
for i, key in ipairs(KEYS) do
  local at = (i - 1) * 4
  local interval, tolerance = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local wanted, ahead = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local arrival = tonumber(redis.call('GET', key) or 0)
  if arrival <= now then arrival = now + math.max(ahead, 0) end
  local spare = now + tolerance - arrival
  local granted = 0
  if spare >= 0 then granted = math.min(wanted, math.floor(spare / interval) + 1) end
  arrival = arrival + granted * interval
  if arrival > now then
    local left_ms = math.ceil((arrival - now) / 1000) + 1000
    redis.call('SET', key, string.format('%.0f', arrival), 'PX', string.format('%.0f', left_ms))
  end
  answer[#answer + 1] = granted
  answer[#answer + 1] = arrival - now
end
return answer
