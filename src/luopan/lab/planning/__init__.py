"""Plans: what a training costs in FLOPs, memory, time and money, before a device is touched. No torch is imported."""
