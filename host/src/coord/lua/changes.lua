-- KEYS: the hash of cells. ARGV: a generation in case there is none, the generation and version seen.
local generation = redis.call('HGET', KEYS[1], '#generation')
if not generation then
  generation = ARGV[1]
  redis.call('HSET', KEYS[1], '#generation', generation, '#version', 0)
end
if generation == ARGV[2] and redis.call('HGET', KEYS[1], '#version') == ARGV[3] then return {} end
return redis.call('HGETALL', KEYS[1])
