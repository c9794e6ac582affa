/** The landing page and the claim in English. */

export const words = {
  claimTitle: "Make this device yours", claimHelp: "It belongs to nobody yet, and serves nobody before it does.",
  claimWhere: "Its screen shows a code. Without a screen, the file claim-code.txt on the first partition of its card has it.", claimCode: "Code", claimName: "Your name",
  claimRemember: "Stay its owner in this browser", claimGo: "Make it mine", claimWrong: "This is not the code of this device. Compare it with the screen.",
  claimCodeNeeded: "Enter the code that the device shows.", claimPlain: "Others on this network could read the key here.", claimDone: "This device is yours",
  claimKey: "This is the key to the device. It is shown this once.",
  claimKeep: "Keep it where only you look: with it you can get in from other browsers, and without it only by the card.", claimChat: "Start chatting",
  claimTaken: "This device has an owner",
  claimTakenHelp: "If this was not you, somebody else was first: put an empty file named claim-again on the card's first partition, start the device, and claim it with the new code.",
  claimedBy: "{name} claimed this device.", claimedByAt: "{name} claimed this device on {when}.", printTitle: "Compare the fingerprint",
  printHelp: "Only you can tell that nobody sits between you and the device: the fingerprint in your browser has to be the one on its screen.",
  printWhere: "Chrome and Edge: “Not secure”, then the certificate, which has the same digits without colons. Firefox: the padlock, then more information, then the certificate. Safari: show the certificate.",
  printPin: "For the command lantern: the pin", landTitle: "This is {name}", landWhat: "A Lantern: it runs language models on this device, in your network, without a cloud.",
  landNew: "It belongs to nobody yet. Go on to make it yours.", landClaimed: "It has an owner.", landWarnTitle: "Your browser will warn you",
  landWarn: "The device signs its own certificate, since nobody can certify a name in your network. The warning looks like this:", landWarnHead: "⚠ Your connection is not private",
  landWarnText: "Attackers might be trying to steal …", landStep1: "Choose “Advanced” (Firefox too; Safari: “Show details”).",
  landStep2: "Choose “Proceed to {name}”, or “Accept the risk”.", landOther: "If the name is not found",
  landOtherHelp: "Some phones and networks do not know names that end in .local.", landPlain: "If your browser does not let you proceed",
  landPlainHelp: "Chatting works without HTTPS, but anybody on this network can read it. The device cannot be claimed or administered that way.",
  landPlainGo: "Go on without encryption",
};
