"""What a trial does: data, models, attack, methods, the training loop. Runs on torch alone, without ray."""
