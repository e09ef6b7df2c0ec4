# Runs everything that is tested on Windows, on a real one: needs Rust (rustup) with the MSVC or GNU toolchain, and nothing else.
# docs/windows.md says what is there, and what is left out.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')

if (-not (Get-Command cargo-nextest -ErrorAction SilentlyContinue)) {
    cargo install --locked cargo-nextest
    if ($LASTEXITCODE) { exit $LASTEXITCODE }
}
# TLS libraries that are assembled: what they bring along spares an assembler.
$env:AWS_LC_SYS_PREBUILT_NASM = '1'

cargo nextest run --locked -p estop-durable -p estop-watchdog -p estop-secrets -p estop-recovery --all-targets `
    --no-fail-fast --profile ci -E 'not binary(vault) and not binary(vault_log)'
exit $LASTEXITCODE
