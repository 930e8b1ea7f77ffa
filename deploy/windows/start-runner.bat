@echo off
rem Start the runner on Windows. clawplane needs Linux or macOS, so it runs inside WSL 2, in which clawplane is set up
rem in ~/clawplane and its variables are in ~/.config/clawplane/runner.env (mode 0600). Tasks act inside WSL; Windows' own
rem drives are below /mnt. A shortcut to this file in shell:startup starts it at login.
where wsl.exe >nul 2>nul
if errorlevel 1 (
    echo This needs WSL 2: wsl --install
    exit /b 1
)
title clawplane runner
:again
wsl.exe --exec sh -lc "exec ~/clawplane/deploy/run-worker.sh"
if not errorlevel 1 exit /b 0
if errorlevel 78 if not errorlevel 79 exit /b 78
timeout /t 5 /nobreak >nul
goto again
