-- Reads answers as they pass: tokens, refusals, whether they came from a cache. Above these lines,
-- abmesh/mesh/answers.py puts what to look for: NAMESPACE, CACHED, REFUSED, KEYS.
--
-- Chunks are read and passed on one by one. Between two of them only a possible beginning of a key and its value is
-- kept, so that memory does not grow with the answer. Nor does the work for each of its bytes, whatever a model sends:
-- what was read as a value is not read again for a key inside it, a value that is not complete is tried again only once
-- there is twice as much of it, and there is an end to what is read of values altogether.

local byte, find, lower, match, min, sub = string.byte, string.find, string.lower, string.match, math.min, string.sub

local LONGEST = 4096 -- bytes of a key and its value; a longer one is not read
local BLOCK = 16384 -- bytes that are searched at once
local MOST_READ = 4e6 -- bytes of values in one answer, some 50,000 counts of tokens; with more, none is reported
local DEEPEST = 8 -- levels of nested objects and lists
local MOST = 1e9 -- tokens

local WORDS = { ["true"] = true, ["false"] = true, null = true }
local QUOTE, COMMA, COLON, OPEN_LIST, BACKSLASH, CLOSE_LIST, OPEN, CLOSE = 34, 44, 58, 91, 92, 93, 123, 125

-- Every function that walks JSON returns where a value ends; nil if the text ends first, false if it is not JSON.

local function text_end(text, p)
  while true do
    p = find(text, '["\\\r\n]', p + 1)
    if not p then return nil end
    local c = byte(text, p)
    if c == QUOTE then return p + 1 end
    if c ~= BACKSLASH then return false end
    p = p + 1
  end
end

local value_end
local furthest = 0 -- where the last value began that value_end met: all before it was JSON
local limit = 0 -- where values may begin at most

local function object_end(text, p, places, found, depth)
  p = find(text, "%S", p)
  if not p then return nil end
  if byte(text, p) == CLOSE then return p + 1 end
  while true do
    if byte(text, p) ~= QUOTE then return false end
    local stop = text_end(text, p)
    if not stop then return stop end
    local inner = places and places[sub(text, p + 1, stop - 2)]
    p = find(text, "%S", stop)
    if not p then return nil end
    if byte(text, p) ~= COLON then return false end
    p = value_end(text, p + 1, inner, found, depth)
    if not p then return p end
    p = find(text, "%S", p)
    if not p then return nil end
    local c = byte(text, p)
    if c == CLOSE then return p + 1 end
    if c ~= COMMA then return false end
    p = find(text, "%S", p + 1)
    if not p then return nil end
  end
end

local function list_end(text, p, found, depth)
  p = find(text, "%S", p)
  if not p then return nil end
  if byte(text, p) == CLOSE_LIST then return p + 1 end
  while true do
    p = value_end(text, p, nil, found, depth)
    if not p then return p end
    p = find(text, "%S", p)
    if not p then return nil end
    local c = byte(text, p)
    if c == CLOSE_LIST then return p + 1 end
    if c ~= COMMA then return false end
    p = p + 1
  end
end

-- `place` says what to look for here: `place.number` is which number this is, `place.inside` what to find by key.
value_end = function(text, p, place, found, depth)
  p = find(text, "%S", p)
  if not p then return nil end
  furthest = p
  if p > limit then return false end
  local c = byte(text, p)
  if c == QUOTE then return text_end(text, p) end
  if c == OPEN or c == OPEN_LIST then
    if depth == DEEPEST then return false end
    if c == OPEN then return object_end(text, p + 1, place and place.inside, found, depth + 1) end
    return list_end(text, p + 1, found, depth + 1)
  end
  local word = match(text, "^[%w.+-]+", p)
  if not word then return false end
  local stop = p + #word
  if stop > #text then return nil end -- the rest of the number may follow
  if place and place.number and match(word, "^%d+$") and tonumber(word) <= MOST then
    found[place.number] = tonumber(word)
  elseif not (WORDS[word] or match(word, "^-?%d[%d.eE+-]*$")) then
    return false
  end
  return stop
end

-- Reads the value of a key from `start` to `stop`. Returns where to go on; nil if more text is needed.
local function look(text, start, stop, key, seen)
  local p = find(text, "%S", stop + 1)
  if not p then return nil end
  if byte(text, p) ~= COLON then return stop + 1 end
  p = find(text, "%S", p + 1)
  if not p then return nil end
  local c = byte(text, p)
  if c == QUOTE then
    if key.any then
      local first = byte(text, p + 1)
      if not first then return nil end
      seen.refused = seen.refused or first ~= QUOTE
    end
    for i = 1, #key.texts do
      local wanted = key.texts[i]
      local there = sub(text, p + 1, p + #wanted)
      if there == wanted then
        seen.refused = true
      elseif #there < #wanted and there == sub(wanted, 1, #there) then
        return nil
      end
    end
    return stop + 1
  end
  local place = key.place
  if not place or not (place.inside and c == OPEN or place.number and c >= 48 and c <= 57) then return stop + 1 end
  local found = {}
  limit = start + LONGEST
  local reached = value_end(text, p, place, found, 0)
  seen.read = seen.read + (reached or furthest) - start
  if reached == nil then return nil end
  if not reached then return furthest end
  if reached - start <= LONGEST then
    seen[1] = found[1] or seen[1]
    seen[2] = found[2] or seen[2]
  end
  return reached
end

-- Reads every occurrence of a key in the text from `from` on. Returns where to go on when more text has arrived.
local function search(text, from, key, seen)
  local quoted, length = key.quoted, #text
  while true do
    local start, stop = find(text, quoted, from, true)
    if not start then break end
    local there = length - start + 1
    if start > 1 and byte(text, start - 1) == BACKSLASH then -- the quote is inside a string
      from = stop + 1
    elseif there < (seen.wanted[key] or 0) and not seen.ended then
      return start
    else
      seen.wanted[key] = nil
      local next_at = look(text, start, stop, key, seen)
      if not next_at and there <= LONGEST then
        seen.wanted[key] = min(2 * there, LONGEST + 1)
        return start
      end
      from = min(next_at or length + 1, start + LONGEST)
    end
  end
  local beginning = length - #quoted + 2 -- the key may begin here and end in the next chunk
  return from > beginning and from or beginning > 1 and beginning or 1
end

local function says(headers, signals)
  for i = 1, #signals do
    local signal = signals[i]
    for index = 0, headers:getNumValues(signal.name) - 1 do
      local value = lower(headers:getAtIndex(signal.name, index))
      -- Without a value any header counts, except 0: gateways send `age: 0` with fresh answers.
      if signal.value and value == signal.value or not signal.value and value ~= "0" then return true end
    end
  end
  return false
end

local function read(handle)
  local headers = handle:headers()
  -- Only an upstream's answers have this header; Envoy's own answers do not come from a model.
  if not headers:get("x-envoy-upstream-service-time") then return end
  if says(headers, CACHED) then
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, "cached", 1)
    return
  end
  local seen = { refused = says(headers, REFUSED), read = 0, wanted = {} }
  local told = seen.refused
  if told then handle:streamInfo():dynamicMetadata():set(NAMESPACE, "refused", 1) end
  local kind = lower(headers:get("content-type") or "")
  local streamed = find(kind, "text/event-stream", 1, true)
  local encoded = headers:get("content-encoding")
  local readable = (streamed or find(kind, "json", 1, true)) and (not encoded or lower(encoded) == "identity")
  local answered, tail, at = false, "", {}
  for i = 1, #KEYS do at[i] = 1 end

  local function add(more)
    local text = tail .. more
    local keep = #text + 1
    for i = 1, #KEYS do
      local key = KEYS[i]
      -- A key that only shows refusals needs no further search.
      local next_at = (seen.refused and not key.place) and #text + 1 or search(text, at[i], key, seen)
      at[i] = next_at
      if next_at < keep then keep = next_at end
    end
    keep = keep > 1 and keep - 1 or 1 -- the byte before tells whether a quote begins a key
    tail = sub(text, keep)
    for i = 1, #KEYS do at[i] = at[i] - keep + 1 end
  end

  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      if not answered then
        answered = true
        handle:streamInfo():dynamicMetadata():set(NAMESPACE, "answered", 1)
        if not readable then return end
      end
      for first = 0, size - 1, BLOCK do
        add(chunk:getBytes(first, min(BLOCK, size - first)))
        if seen.read > MOST_READ then break end
      end
    end
    if seen.read > MOST_READ then break end
  end
  seen.ended = true
  add("")
  if seen.read > MOST_READ then seen[1], seen[2] = nil, nil end

  local input, output = seen[1], seen[2]
  if not (input or output or (seen.refused and not told)) then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  if seen.refused and not told then metadata:set(NAMESPACE, "refused", 1) end
  if input or output then
    metadata:set(NAMESPACE, "input_tokens", input or 0)
    metadata:set(NAMESPACE, "output_tokens", output or 0)
    if streamed then metadata:set(NAMESPACE, "streamed_tokens", output or 0) end
  end
end

function envoy_on_response(handle)
  pcall(read, handle) -- otherwise Envoy would log our error for every answer
end
