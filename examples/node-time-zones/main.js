'use strict';
// When do clocks change? For each time zone and year: every transition, found in the time zone data that Node.js carries.

const { parameter, result, log } = require('./sdk');

const HOUR = 3_600_000;
const STEP = 6 * HOUR; // shorter than the shortest time two transitions have ever been apart
const COLUMNS = [
  ['Zone', 'zone', 'text'],
  ['Year', 'year', 'integer'],
  ['When (UTC)', 'at', 'datetime'],
  ['Offset before', 'before', 'text'],
  ['Offset after', 'after', 'text'],
  ['Minutes', 'minutes', 'integer'],
  ['Name after', 'name', 'text'],
];

/** Return a function from an instant to the zone's offset in minutes. */
function offsets(zone) {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone, hourCycle: 'h23', era: 'short',
    year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric',
  });
  return (instant) => {
    const part = Object.fromEntries(format.formatToParts(instant).map(({ type, value }) => [type, value]));
    const local = Date.UTC(+part.year, part.month - 1, +part.day, +part.hour, +part.minute, +part.second);
    return (local - Math.floor(instant / 1000) * 1000) / 60_000;
  };
}

/** Return the first instant after `from` with another offset, to the second; `to` must have that other offset. */
function change(offset, from, to) {
  const before = offset(from);
  while (to - from > 1000) {
    const middle = Math.floor((from + to) / 2000) * 1000;
    if (offset(middle) === before) from = middle;
    else to = middle;
  }
  return to;
}

const text = (minutes) => {
  const size = Math.abs(minutes);
  const two = (number) => String(Math.floor(number)).padStart(2, '0');
  return `${minutes < 0 ? '-' : '+'}${two(size / 60)}:${two(size % 60)}`;
};

function transitions(zone, year) {
  const offset = offsets(zone);
  const names = new Intl.DateTimeFormat('en-US', { timeZone: zone, timeZoneName: 'long' });
  const rows = [];
  const end = Date.UTC(year + 1, 0, 1);
  for (let at = Date.UTC(year, 0, 1); at < end; at += STEP) {
    const next = Math.min(at + STEP, end);
    if (offset(at) === offset(next)) continue;
    const moment = change(offset, at, next);
    rows.push({
      zone,
      year,
      at: new Date(moment).toISOString(),
      before: text(offset(at)),
      after: text(offset(next)),
      minutes: offset(next) - offset(at),
      name: names.formatToParts(moment).find(({ type }) => type === 'timeZoneName').value,
    });
  }
  return rows;
}

async function main() {
  const { zones = [], first_year: first = 2024, last_year: last = first } = await parameter.getInputJSONObject();
  await result.setTableHeader(COLUMNS.map(([label, key, format]) => ({ label, key, format })));
  await log.info(`time zone data ${process.versions.tz}, ${zones.join(', ')}, ${first} to ${last}`);
  let unknown = 0;
  for (const zone of zones) {
    try {
      new Intl.DateTimeFormat('en-US', { timeZone: zone });
    } catch {
      unknown += 1;
      await log.error(`there is no time zone called ${zone}`);
      continue;
    }
    let found = 0;
    for (let year = first; year <= last; year += 1) {
      const rows = transitions(zone, year);
      found += rows.length;
      await Promise.all(rows.map((row) => result.pushData(row)));
    }
    await log.info(`${zone}: ${found} changes`);
  }
  return unknown === zones.length ? 1 : 0;
}

main().then(
  (code) => process.exit(code),
  async (error) => {
    await log.error(String(error.stack)).catch(() => {});
    process.exit(1);
  },
);
