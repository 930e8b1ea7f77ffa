"""The Python interpreter of a session, beside user code: it runs cells and shows what they made.

Theory of operation. One process, one thread of ours: main reads a request from the control socket, kernel runs it, the
answer goes back (see sandbox/repl_wire.py). User code shares this process and may break anything in it. So three rules:
1. What we need later is bound before user code runs: C functions in module globals, private copies of the modules of
   the standard library that format errors, our own module objects taken out of sys.modules.
2. Between two cells order.py puts back what Python itself and the next cell need: builtins, streams, tracing, signals.
3. What cannot be put back ends the process, and the runner starts another: no answer is better than a wrong one.
Nothing here is a security boundary: that is the sandbox. The runner takes every word as a claim.
"""
