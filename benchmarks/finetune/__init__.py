"""Whether fine-tuning helps where it should, does no harm elsewhere, and costs what it must."""
