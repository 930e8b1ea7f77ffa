'use strict';
// A Worker of the kind the platform publishes as a starting point: every editor in its form, and the upsert pattern.

const fs = require('fs');
const os = require('os');
const path = require('path');
const { parameter, result, log } = require('./sdk');

async function run() {
  const input = await parameter.getInputJSONObject();
  await log.info(`input: ${JSON.stringify(input)}`);
  console.log('a line on stdout');
  console.error('a line on stderr');

  await result.setTableHeader([
    { label: 'ID', key: 'id', format: 'text' },
    { label: 'Title', key: 'title', format: 'text' },
    { label: 'Description', key: 'description', format: 'text' },
  ]);

  const note = path.join(os.tmpdir(), 'note.txt');
  fs.writeFileSync(note, fs.readFileSync('note.txt', 'utf8').trim());
  const description = fs.readFileSync(note, 'utf8');

  const count = input.max_results ?? 10;
  for (let n = 1; n <= count; n += 1) {
    await result.upsertData({ id: `test-${n}`, title: `Title ${n}`, description }, 'id');
  }
  for (let n = 3; n <= count; n += 3) {
    await result.upsertData({ id: `test-${n}`, title: `Title ${n}, second edition`, description }, 'id');
  }
  await log.info(`${count} rows`);
}

run()
  .then(() => process.exit(0))
  .catch(async (error) => {
    await log.error(error.message);
    process.exit(1);
  });
