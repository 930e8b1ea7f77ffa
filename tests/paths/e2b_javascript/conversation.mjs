// A program for E2B's published JavaScript client, unchanged but for three variables; says "done" when all of it held.
import assert from 'node:assert/strict'
import { Sandbox } from '@e2b/code-interpreter'

const name = (error) => error.constructor.name
const sandbox = await Sandbox.create('bare', { timeoutMs: 120_000, metadata: { for: 'js' }, envs: { GREETING: 'hi' } })
try {
  // code
  const heard = []
  const execution = await sandbox.runCode(
    "import os, sys\nprint('one')\nprint('two', file=sys.stderr)\nos.environ['GREETING']",
    {
      onStdout: (message) => heard.push(`out ${message.line}`),
      onStderr: (message) => heard.push(`err ${message.line}`),
      onResult: (result) => heard.push(`result ${result.text}`),
    },
  )
  assert.deepEqual(heard.sort(), ['err two\n', 'out one\n', "result 'hi'"])
  assert.equal(execution.text, "'hi'")
  assert.deepEqual(execution.logs, { stdout: ['one\n'], stderr: ['two\n'] })
  const errors = []
  const failed = await sandbox.runCode('1/0', { onError: (error) => errors.push(error.name) })
  assert.equal(failed.error.value, 'division by zero')
  assert.deepEqual(errors, ['ZeroDivisionError'])
  const context = await sandbox.createCodeContext({ cwd: '/home/user' })
  assert.equal((await sandbox.runCode('x = 5; x', { context })).text, '5')
  assert.deepEqual((await sandbox.runCode("console.log('js')", { language: 'js' })).logs.stdout, ['js\n'])
  assert.deepEqual((await sandbox.runCode('echo sh', { language: 'bash' })).logs.stdout, ['sh\n'])
  await assert.rejects(sandbox.runCode('import time; time.sleep(20)', { timeoutMs: 300 }), (e) => name(e) === 'TimeoutError')

  // files
  await sandbox.files.write('/home/user/a.txt', 'hello')
  assert.equal(await sandbox.files.read('a.txt'), 'hello')
  assert.equal(await sandbox.files.exists('nope'), false)
  await assert.rejects(sandbox.files.read('nope'), (error) => name(error) === 'FileNotFoundError')
  await sandbox.files.write([{ path: 'd/b.txt', data: 'b' }, { path: 'd/c.bin', data: new Uint8Array([0, 255]).buffer }])
  assert.deepEqual((await sandbox.files.list('d')).map((entry) => entry.name), ['b.txt', 'c.bin'])
  assert.deepEqual([...(await sandbox.files.read('d/c.bin', { format: 'bytes' }))], [0, 255])
  await sandbox.files.rename('d/b.txt', 'd/e.txt')
  assert.equal((await sandbox.files.getInfo('d/e.txt')).size, 1)
  await sandbox.files.makeDir('n/m')
  await sandbox.files.remove('d')
  assert.equal(await sandbox.files.exists('d/e.txt'), false)

  // commands
  const said = []
  const done = await sandbox.commands.run('cat a.txt; echo err >&2', {
    cwd: '/home/user',
    onStdout: (text) => said.push(text),
    onStderr: (text) => said.push(text),
  })
  assert.deepEqual([done.exitCode, done.stdout, done.stderr], [0, 'hello', 'err\n'])
  assert.deepEqual(said.sort(), ['err\n', 'hello'])
  await assert.rejects(sandbox.commands.run('exit 3'), (error) => name(error) === 'CommandExitError' && error.exitCode === 3)
  const waiting = await sandbox.commands.run('until [ -e go ]; do sleep 0.01; done; echo went', { background: true })
  assert.ok((await sandbox.commands.list()).some((each) => each.pid === waiting.pid))
  assert.equal((await sandbox.runCode("open('go', 'w').close(); 6 * 7")).text, '42')
  assert.equal((await waiting.wait()).stdout, 'went\n')
  const sleeping = await sandbox.commands.run('sleep 60', { background: true })
  assert.equal(await sleeping.kill(), true)
  await assert.rejects(sleeping.wait(), (error) => name(error) === 'CommandExitError')

  // life
  assert.equal(await sandbox.isRunning(), true)
  assert.deepEqual((await sandbox.getInfo()).metadata, { for: 'js' })
  await sandbox.setTimeout(60_000)
  const same = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await same.runCode('1 + 1')).text, '2')
  assert.ok((await Sandbox.list().nextItems()).some((item) => item.sandboxId === sandbox.sandboxId))
} finally {
  assert.equal(await sandbox.kill(), true)
}
assert.equal(await sandbox.isRunning(), false)
console.log('done')
