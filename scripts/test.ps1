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

# What these two need, a real OpenBao, is installed by a script for Linux.
cargo nextest run --locked --workspace --no-fail-fast --profile ci -E 'not binary(vault) and not binary(vault_log)'
if ($LASTEXITCODE) { exit $LASTEXITCODE }
cargo test --locked --workspace --doc
if ($LASTEXITCODE) { exit $LASTEXITCODE }

cargo build --locked --release
if ($LASTEXITCODE) { exit $LASTEXITCODE }
$target = if ($env:CARGO_TARGET_DIR) { $env:CARGO_TARGET_DIR } else { 'target' }
& (Join-Path $target 'release\estop.exe') drill runaway
exit $LASTEXITCODE
