"""Tiny models of random weights in Hugging Face's format: a causal Llama and a seq2seq BART.

Both have two layers and a byte pair tokenizer of their own, and are made in a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_gguf
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY, CONTEXT = 512, 32_768


def _tokenizer(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([tiny_gguf.TEXT], trainer)
    return tokenizer


def llama(folder: Path, *, seed: int = 1, width: int = 64) -> Path:
    """Write a chat model."""
    start, _, end = tiny_gguf.SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(list(tiny_gguf.SPECIAL)),
        bos_token=start,
        eos_token=end,
        pad_token=start,
    )
    tokenizer.chat_template = tiny_gguf.TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def bart(folder: Path, *, seed: int = 1, beams: int = 2, positions: int = 64) -> Path:
    """Write a summarizer that searches beams, as facebook/bart-large-cnn does."""
    special = ["<s>", "<pad>", "</s>"]
    inner = _tokenizer(special)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=positions,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        init_std=0.3,
    )
    model = BartForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        num_beams=beams,
        max_length=24,
        min_length=6,
        no_repeat_ngram_size=3,
        length_penalty=2.0,
        early_stopping=True,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    model.save_pretrained(folder)
    return folder


def adapter(folder: Path, model: Path, *, seed: int = 1, **settings: Any) -> Path:
    """Write a LoRA adapter of random weights for a causal `model`."""
    torch.manual_seed(seed)
    settings = {"r": 4, "init_lora_weights": False, **settings}
    config = LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], **settings)
    changed = get_peft_model(LlamaForCausalLM.from_pretrained(model), config)
    changed.save_pretrained(folder)
    return folder
