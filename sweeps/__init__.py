"""Many runs: grid, manifest, plan, launch, status."""
