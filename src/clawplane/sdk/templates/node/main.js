'use strict';
// worker-name: one row per item of the input's list "items", with its length.

const { parameter, result, log } = require('./sdk');

async function main() {
  const { items = [] } = await parameter.getInputJSONObject();
  await result.setTableHeader([
    { label: 'Item', key: 'item', format: 'text' },
    { label: 'Length', key: 'length', format: 'integer' },
  ]);
  for (const item of items) {
    await result.pushData({ item, length: [...item].length });
  }
  await log.info(`${items.length} items done`);
}

main().then(
  () => process.exit(0),
  async (error) => {
    await log.error(String(error.stack)).catch(() => {});
    process.exit(1);
  },
);
