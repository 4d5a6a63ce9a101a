// Turns of speakers: words that follow one another and were said by the same person.

// words: {text, speaker}; a word of which nobody knows who said it goes with the one before, or with the first after.
// Gives [{speaker, words}]; one turn whose speaker is null where nobody is known.
export function turns(words) {
  const found = [];
  let speaker = words.find((word) => word.speaker)?.speaker ?? null;
  for (const word of words) {
    speaker = word.speaker ?? speaker;
    if (found.at(-1)?.speaker !== speaker || !found.length) found.push({ speaker, words: [] });
    found.at(-1).words.push(word);
  }
  return found;
}

// Everybody who speaks in them, in the order of their first words.
export const speakersOf = (words) => [...new Set(words.map((word) => word.speaker).filter(Boolean))];
